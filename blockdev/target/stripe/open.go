package stripe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/uring/queue"
)

// Options for Open.
type Options struct {
	// Format makes a new set of the legs, whose content is lost. Without it, they are a set.
	Format bool
	// ChunkSize and BlockSize in bytes are a new set's; zero is the default: 64 KiB, and what the
	// files want. Without Format they are the set's own, and others are refused.
	ChunkSize int64
	BlockSize int
	ReadOnly  bool
	Buffered  bool // go through the page cache instead of O_DIRECT
}

// Open opens legs as a disk. They may be in any order, but for Format. The caller closes the disk
// after its device has stopped.
func Open(paths []string, o Options) (*Stripe, error) {
	if n := len(paths); n < MinLegs || n > MaxLegs {
		return nil, fmt.Errorf("%w: a stripe over %d files; it has %d to %d", queue.ErrInvalid, n, MinLegs, MaxLegs)
	}
	if err := distinct(paths); err != nil {
		return nil, err
	}
	var files []*backing.File
	for _, path := range paths {
		f, err := backing.Open(path, backing.Options{ReadOnly: o.ReadOnly, Buffered: o.Buffered})
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append(files, f)
	}
	join := assemble
	if o.Format {
		join = format
	}
	s, err := join(files, o)
	if err != nil {
		return nil, errors.Join(err, closeAll(files))
	}
	return s, nil
}

func closeAll(files []*backing.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// distinct refuses a file that is named twice.
func distinct(paths []string) error {
	infos := make([]os.FileInfo, 0, len(paths))
	for _, path := range paths {
		fi, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("backing file: %w", err)
		}
		for i, other := range infos {
			if os.SameFile(fi, other) {
				return fmt.Errorf("%w: %s and %s are the same file; each leg needs its own", queue.ErrInvalid, paths[i], path)
			}
		}
		infos = append(infos, fi)
	}
	return nil
}

// format makes a new set. The superblocks make it one: until the last is durable, the legs are none.
func format(files []*backing.File, o Options) (*Stripe, error) {
	if o.ReadOnly {
		return nil, fmt.Errorf("%w: formatting a stripe writes to its files, which are to be read only", queue.ErrInvalid)
	}
	s := set{legs: len(files), chunk: o.ChunkSize}
	if s.chunk == 0 {
		s.chunk = DefaultChunkSize
	}
	var err error
	if s.block, err = backing.BlockSize(o.BlockSize, files...); err != nil {
		return nil, err
	}
	s.leg = s.chunk // so that check looks at the rest
	if err := s.check(); err != nil {
		return nil, err
	}
	for i, f := range files {
		leg := (f.Size() - DataOffset) / s.chunk * s.chunk
		switch {
		case f.Size() < DataOffset+s.chunk:
			return nil, fmt.Errorf("%w: backing file %s has %d bytes; a leg needs %d or more", queue.ErrInvalid, f.Path(), f.Size(), DataOffset+s.chunk)
		case i > 0 && leg != s.leg:
			return nil, fmt.Errorf("%w: %s has room for %d bytes of a stripe and %s for %d; legs have the same size",
				queue.ErrInvalid, files[0].Path(), s.leg, f.Path(), leg)
		}
		s.leg = leg
		if old, _, err := read(f); err == nil {
			return nil, fmt.Errorf("%w: %s is a leg of the stripe %s already; to lose that, overwrite its first %d bytes with zeroes",
				queue.ErrInvalid, f.Path(), old.id, copies*superblockSize)
		}
	}
	if s.id, err = uuid.NewRandom(); err != nil {
		return nil, fmt.Errorf("make UUID of stripe: %w", err)
	}
	for i, f := range files {
		if err := s.write(f, i); err != nil {
			return nil, fmt.Errorf("write superblock: %w", err)
		}
	}
	return newStripe(s, files, o.ReadOnly), nil
}

// assemble finds the order of the legs of a set.
func assemble(files []*backing.File, o Options) (*Stripe, error) {
	var whole set
	order := make([]*backing.File, MaxLegs)
	for i, f := range files {
		s, index, err := read(f)
		switch {
		case errors.Is(err, errNone):
			return nil, fmt.Errorf("%w: %s has %w; format a new stripe first, which loses what the files hold", queue.ErrInvalid, f.Path(), err)
		case err != nil:
			return nil, fmt.Errorf("leg %s: %w", f.Path(), err)
		case i > 0 && s.id != whole.id:
			return nil, fmt.Errorf("%w: %s is a leg of the stripe %s, and %s of %s", queue.ErrInvalid, files[0].Path(), whole.id, f.Path(), s.id)
		case i > 0 && s != whole:
			return nil, fmt.Errorf("%w: the superblocks of %s and %s contradict each other", queue.ErrInvalid, files[0].Path(), f.Path())
		case order[index] != nil:
			return nil, fmt.Errorf("%w: both %s and %s are leg %d of the stripe: one is a copy", queue.ErrInvalid, order[index].Path(), f.Path(), index)
		case f.Size() < DataOffset+s.leg:
			return nil, fmt.Errorf("%w: leg %d, %s, has shrunk to %d bytes; the stripe has %d there", queue.ErrInvalid, index, f.Path(), f.Size(), DataOffset+s.leg)
		}
		whole, order[index] = s, f
	}
	order = order[:whole.legs]
	var missing []string
	for i, f := range order {
		if f == nil {
			missing = append(missing, fmt.Sprint(i))
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("%w: the stripe %s has %d legs; missing: leg %s", queue.ErrInvalid, whole.id, whole.legs, strings.Join(missing, ", "))
	}
	if o.ChunkSize != 0 && o.ChunkSize != whole.chunk || o.BlockSize != 0 && o.BlockSize != whole.block {
		return nil, fmt.Errorf("%w: the stripe %s has chunks of %d bytes and blocks of %d, which stay as they are", queue.ErrInvalid, whole.id, whole.chunk, whole.block)
	}
	if err := aligned(&whole, order); err != nil {
		return nil, err
	}
	return newStripe(whole, order, o.ReadOnly), nil
}

// aligned refuses legs whose disks want larger blocks than the set has, as after a move.
func aligned(s *set, legs []*backing.File) error {
	for _, f := range legs {
		if f.OffAlign() > s.block {
			return fmt.Errorf("%w: the stripe has blocks of %d bytes, and direct I/O to %s has to be aligned to %d; use buffered I/O",
				queue.ErrInvalid, s.block, f.Path(), f.OffAlign())
		}
	}
	return nil
}
