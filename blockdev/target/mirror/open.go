package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/superblock"
	"varve/uring/queue"
)

// Options for Open.
type Options struct {
	// Format makes a new set of the legs, whose content is lost. Without it, they are a set.
	Format bool
	// Degraded uses a set although legs are missing, which are out from then on.
	Degraded bool
	// ResyncFrom is the path of the leg whose content counts, whatever the others say. They get it.
	ResyncFrom string
	// BlockSize and RegionSize in bytes are a new set's; zero is the default: what the files want,
	// and 1 MiB or as much as makes 65536 regions. Without Format they are the set's own, and others
	// are refused.
	BlockSize  int
	RegionSize int64
	ReadOnly   bool
	Buffered   bool // go through the page cache instead of O_DIRECT
	Logger     *slog.Logger
}

// Open opens legs as a disk, in any order. A leg that the set calls out may be missing, or be no
// file at all. The caller closes the disk after its device has stopped.
func Open(paths []string, o Options) (*Mirror, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := check(paths, &o); err != nil {
		return nil, err
	}
	var files []*backing.File
	var bad []error // legs that may be out
	for _, path := range paths {
		f, err := backing.Open(path, backing.Options{ReadOnly: o.ReadOnly, Buffered: o.Buffered})
		if err != nil {
			if o.Format || path == o.ResyncFrom {
				return nil, errors.Join(err, closeAll(files))
			}
			bad = append(bad, err)
			continue
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, errors.Join(bad...)
	}
	if o.Format {
		if err := format(files, o); err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
	}
	m, err := assemble(files, bad, o)
	if err != nil {
		return nil, errors.Join(err, closeAll(files))
	}
	return m, nil
}

func check(paths []string, o *Options) error {
	least := 1 // the others may be out
	if o.Format {
		least = MinLegs
	}
	if n := len(paths); n < least || n > MaxLegs {
		return fmt.Errorf("%w: a mirror over %d files; it has %d to %d", queue.ErrInvalid, n, MinLegs, MaxLegs)
	}
	if o.ResyncFrom != "" && !slices.Contains(paths, o.ResyncFrom) {
		return fmt.Errorf("%w: --resync-from %s is none of the legs", queue.ErrInvalid, o.ResyncFrom)
	}
	if o.ReadOnly && (o.Format || o.ResyncFrom != "") {
		return fmt.Errorf("%w: a mirror that is read only is neither formatted nor resynced", queue.ErrInvalid)
	}
	if o.Format && (o.Degraded || o.ResyncFrom != "") {
		return fmt.Errorf("%w: a mirror that is formatted has all its legs, which hold nothing to resync from", queue.ErrInvalid)
	}
	return distinct(paths)
}

// distinct refuses a file that is named twice.
func distinct(paths []string) error {
	infos := make([]os.FileInfo, 0, len(paths))
	for _, path := range paths {
		fi, err := os.Stat(path)
		if err != nil {
			infos = append(infos, nil)
			continue // opening it says why, if that matters
		}
		for i, other := range infos {
			if other != nil && os.SameFile(fi, other) {
				return fmt.Errorf("%w: %s and %s are the same file; each leg needs its own", queue.ErrInvalid, paths[i], path)
			}
		}
		infos = append(infos, fi)
	}
	return nil
}

func closeAll(files []*backing.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// format makes a new set. Nothing is known of what the legs hold, so that all of it is to be copied
// from the first leg.
func format(files []*backing.File, o Options) error {
	s := state{legs: len(files), events: 1, region: o.RegionSize}
	var err error
	if s.block, err = backing.BlockSize(o.BlockSize, files...); err != nil {
		return err
	}
	for i, f := range files {
		switch {
		case f.Size() < DataOffset+MinRegionSize:
			return fmt.Errorf("%w: backing file %s has %d bytes; a leg needs %d or more", queue.ErrInvalid, f.Path(), f.Size(), DataOffset+MinRegionSize)
		case i > 0 && f.Size() != files[0].Size():
			return fmt.Errorf("%w: %s has %d bytes and %s has %d; legs have the same size",
				queue.ErrInvalid, files[0].Path(), files[0].Size(), f.Path(), f.Size())
		}
		if old, _, _, err := readState(f); err == nil {
			return fmt.Errorf("%w: %s is a leg of the mirror %s already; to lose that, overwrite its first %d bytes with zeroes",
				queue.ErrInvalid, f.Path(), old.id, slots*stateSize)
		}
	}
	s.size = files[0].Size() - DataOffset
	if s.region == 0 {
		for s.region = minDefaultRegion; s.size/s.region >= defaultRegions && s.region < MaxRegionSize; s.region *= 2 {
		}
	}
	if err := s.check(); err != nil {
		return err
	}
	if s.id, err = uuid.NewRandom(); err != nil {
		return fmt.Errorf("make UUID of mirror: %w", err)
	}
	for i := range files {
		s.parts[i] = partResyncing
	}
	s.parts[0] = partInSync
	all := newBitmap(s.regions())
	all.setAll()
	for i, f := range files {
		if err := writeLeg(f, &s, i, all); err != nil {
			return fmt.Errorf("format %s: %w", f.Path(), err)
		}
	}
	return nil
}

// writeLeg writes all that a leg knows, the state to the first slot and last.
func writeLeg(d disk, s *state, index int, b *bitmap) error {
	p := backing.Memory(pageSize)
	for page := range b.pages() {
		b.encodePage(p, page)
		if err := d.WriteAt(p, pageOffset(page)); err != nil {
			return err
		}
	}
	if err := d.Sync(); err != nil {
		return err
	}
	clear(p)
	if err := d.WriteAt(p, stateSize); err != nil { // what another set has left there
		return err
	}
	s.encode(p, index)
	if err := d.WriteAt(p, 0); err != nil {
		return err
	}
	return d.Sync()
}

// readBitmap adds the regions of a leg's bitmap. A page that can't be read counts as all ones.
func readBitmap(d disk, b *bitmap) (damaged int) {
	p := backing.Memory(pageSize)
	for page := range b.pages() {
		if err := d.ReadAt(p, pageOffset(page)); err != nil {
			clear(p)
		}
		if !b.decodePage(p, page) {
			damaged++
		}
	}
	return damaged
}

// find reads what the files know of their set. Those that can't be read are errors in bad: they may
// be out.
func find(files []*backing.File, o Options) (k known, from int, bad []error, err error) {
	from = -1
	var set *found
	for _, f := range files {
		s, index, slot, err := readState(f)
		if err != nil && !errors.Is(err, errNone) && !errors.Is(err, queue.ErrInvalid) || errors.Is(err, superblock.ErrDamaged) {
			bad = append(bad, fmt.Errorf("leg %s: %w", f.Path(), err))
			continue
		}
		leg := &found{path: f.Path(), state: s, slot: slot, disk: f}
		switch {
		case errors.Is(err, errNone):
			return k, 0, nil, fmt.Errorf("%w: %s has %w; format a new mirror first, which loses what the files hold", queue.ErrInvalid, f.Path(), err)
		case err != nil:
			return k, 0, nil, fmt.Errorf("leg %s: %w", f.Path(), err) // of another version
		case set != nil && s.id != set.state.id:
			return k, 0, nil, fmt.Errorf("%w: %s is a leg of the mirror %s, and %s of %s", queue.ErrInvalid, set.path, set.state.id, f.Path(), s.id)
		case set != nil && !s.sameSet(&set.state):
			return k, 0, nil, fmt.Errorf("%w: the superblocks of %s and %s contradict each other", queue.ErrInvalid, set.path, f.Path())
		case k[index] != nil:
			return k, 0, nil, fmt.Errorf("%w: both %s and %s are leg %d of the mirror: one is a copy", queue.ErrInvalid, k[index].path, f.Path(), index)
		case f.Size() < DataOffset+s.size:
			return k, 0, nil, fmt.Errorf("%w: leg %d, %s, has shrunk to %d bytes; the mirror has %d there", queue.ErrInvalid, index, f.Path(), f.Size(), DataOffset+s.size)
		case f.OffAlign() > s.block:
			return k, 0, nil, fmt.Errorf("%w: the mirror has blocks of %d bytes, and direct I/O to %s has to be aligned to %d; use buffered I/O",
				queue.ErrInvalid, s.block, f.Path(), f.OffAlign())
		case o.BlockSize != 0 && o.BlockSize != s.block || o.RegionSize != 0 && o.RegionSize != s.region:
			return k, 0, nil, fmt.Errorf("%w: the mirror %s has blocks of %d bytes and regions of %d, which stay as they are", queue.ErrInvalid, s.id, s.block, s.region)
		}
		k[index], set = leg, leg
		if f.Path() == o.ResyncFrom {
			from = index
		}
	}
	return k, from, bad, nil
}

// assemble makes a disk of the legs of a set. bad says why others are missing. After an error the
// caller closes the files.
func assemble(files []*backing.File, bad []error, o Options) (*Mirror, error) {
	k, from, unread, err := find(files, o)
	if err != nil {
		return nil, err
	}
	bad = append(bad, unread...)
	if k == (known{}) {
		return nil, errors.Join(bad...)
	}
	if o.ResyncFrom != "" && from < 0 {
		return nil, errors.Join(append(bad, fmt.Errorf("%w: --resync-from %s can't be read", queue.ErrInvalid, o.ResyncFrom))...)
	}
	p, err := k.assemble(o.Degraded, from)
	if err != nil {
		return nil, errors.Join(append(bad, err)...)
	}
	a, err := k.join(p, o.ReadOnly, o.Logger)
	if err != nil {
		return nil, err
	}
	m := newMirror(a, o)
	for _, err := range bad {
		m.note(fmt.Sprintf("a leg that is out was not opened: %v", err))
	}
	for i, l := range a.legs {
		if l != nil {
			l.file = k[i].disk.(*backing.File)
		} else if k[i] != nil {
			m.note(fmt.Sprintf("leg %d, %s, is out: varve ublk add-leg brings it back", i, k[i].path))
		}
	}
	for _, f := range files {
		if !slices.ContainsFunc(a.legs[:], func(l *leg) bool { return l != nil && l.file == f }) {
			if err := f.Close(); err != nil {
				m.note(err.Error())
			}
		}
	}
	m.start()
	return m, nil
}

// join makes an array of legs by a plan, durably: from then on their regions are written only after
// the bits are set.
func (k *known) join(p plan, readOnly bool, log *slog.Logger) (*array, error) {
	bits := newBitmap(p.state.regions())
	for i, f := range k {
		if p.had.has(i) {
			if n := readBitmap(f.disk, bits); n > 0 {
				log.Warn("pages of the intent bitmap of a leg are damaged; more is resynced", slog.Int("leg", i), slog.String("file", f.path), slog.Int("pages", n))
			}
		}
	}
	if p.whole {
		bits.setAll()
	}
	p.demote(bits.count)
	if p.state.clean && p.state.active() == 1<<p.state.legs-1 && p.state.in(partResyncing) == 0 {
		bits.clearAll()
	}
	p.state.clean = false
	a := newArray(p.state, log)
	for i, f := range k {
		if f != nil && p.state.active().has(i) {
			a.legs[i] = &leg{disk: f.disk, slot: f.slot}
		}
	}
	a.intent = bits
	a.stale = bits.clone()
	a.publish()
	if readOnly {
		return a, nil
	}
	pages := map[int]bool{}
	for page := range bits.pages() {
		pages[page] = true
	}
	if failed, err := a.writePages(bits, pages, true); failed != 0 && !a.failed(failed, err) {
		return nil, err
	}
	return a, a.commit(func(*state) {}) // a leg that can't be written goes out
}
