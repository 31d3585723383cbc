// Package qcow2 is the disk in a qcow2 image, with its chain of backing files.
//
// What has a place is moved by secondaries, between the request's own pages and the image or a
// backing file. What has none reads as zeroes. Package image says where bytes are, and gives those
// that are written a place; package format decodes.
//
//	read    in memory: planned at once     else, and where a cluster is compressed: by a worker,
//	                                       which fills in what it has decompressed
//	write   in place: one secondary for    else a worker prepares, the secondaries write, and a
//	        each run of clusters           worker commits; then the request is answered
//	flush   a sync of the image
//	discard, write zeroes                  entries that say so, by a worker
//
// Images are read by other programs' rules: encrypted ones, those with an external data file or an
// unknown incompatible feature are refused. So is one that another program has open, as far as it
// takes qemu's locks or flock(2) (lock.go).
package qcow2

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2/image"
	"varve/uring/queue"
)

// Disk is the disk in an image.
type Disk struct {
	top    *image.Image
	files  []*backing.File // of the chain, the image's own first
	fds    []int
	lim    target.Limits
	direct bool
}

// Options for Open.
type Options struct {
	BlockSize int  // 512 or 4096; 0: what the files want
	ReadOnly  bool // open the image for reading only
	Buffered  bool // go through the page cache instead of O_DIRECT
	// Allow refuses backing files by an error; nil: any may be read.
	Allow func(path string) error
}

// maxChain is how many files a chain has at most.
const maxChain = 64

// Open opens an image and its backing files. The caller closes the disk after the device has stopped.
// Errors: format.ErrDamaged and format.ErrUnsupported, format.ErrNoImage, backing.ErrUsed, and those
// of open(2).
func Open(path string, o Options) (*Disk, error) {
	d, err := open(path, o)
	if errors.Is(err, errUnaligned) {
		o.Buffered = true
		d, err = open(path, o)
	}
	return d, err
}

func open(path string, o Options) (*Disk, error) {
	d := &Disk{direct: true}
	layers, err := d.openChain(path, o)
	if err == nil {
		err = d.openImages(layers, o)
	}
	if err != nil {
		return nil, errors.Join(err, d.closeFiles())
	}
	return d, nil
}

// layer is a file of the chain: an image, or the raw file at the end.
type layer struct {
	file  *backing.File
	grain int64 // 0: raw
}

// openChain opens the files.
func (d *Disk) openChain(path string, o Options) ([]layer, error) {
	var layers []layer
	var seen []os.FileInfo
	readOnly, raw := o.ReadOnly, false
	for {
		fi, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("backing file: %w", err)
		}
		for _, other := range seen {
			if os.SameFile(fi, other) {
				return nil, fmt.Errorf("%w: %s is below itself in its chain of backing files", queue.ErrInvalid, path)
			}
		}
		if seen = append(seen, fi); len(seen) > maxChain {
			return nil, fmt.Errorf("%w: more than %d backing files", queue.ErrInvalid, maxChain)
		}
		f, err := openFile(path, backing.Options{ReadOnly: readOnly, Buffered: o.Buffered})
		if err != nil {
			return nil, err
		}
		d.files = append(d.files, f)
		d.direct = d.direct && f.Direct()
		if raw {
			return append(layers, layer{file: f}), nil
		}
		if f.Size()%int64(f.OffAlign()) != 0 {
			return nil, errUnaligned
		}
		h, err := image.ReadHeader(f)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer{f, h.GrainSize()})
		if h.Backing == "" {
			return layers, nil
		}
		if path, err = backingPath(path, h.Backing); err != nil {
			return nil, err
		}
		if raw, err = isRaw(f.Path(), h.BackingFormat); err == nil && o.Allow != nil {
			err = o.Allow(path)
		}
		if err != nil {
			return nil, err
		}
		readOnly = true
	}
}

// backingPath returns the path that an image means by the name of its backing file.
func backingPath(path, name string) (string, error) {
	name = strings.TrimPrefix(name, "file:")
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		return "", fmt.Errorf("%w: %s has the backing file %q; only files and block devices are known", queue.ErrInvalid, path, name)
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Join(filepath.Dir(path), name), nil
}

// isRaw reports whether a backing file is raw. A guest that writes to a raw disk could make it look
// like an image that names any file as its own backing file: nobody guesses.
func isRaw(path, format string) (bool, error) {
	switch format {
	case "raw", "file", "host_device":
		return true, nil
	case "qcow2":
		return false, nil
	case "":
		return false, fmt.Errorf("%w: %s does not say what format its backing file has; qemu-img rebase -u -F raw|qcow2 does", queue.ErrInvalid, path)
	}
	return false, fmt.Errorf("%w: %s has a backing file of format %q; raw and qcow2 are known", queue.ErrInvalid, path, format)
}

// errUnaligned: the chain can't be read with O_DIRECT.
var errUnaligned = errors.New("unaligned")

// openImages opens the images, the lowest first.
func (d *Disk) openImages(layers []layer, o Options) error {
	mem, align := 0, 1
	for _, l := range layers {
		mem, align = max(mem, l.file.MemAlign()), max(align, l.file.OffAlign())
		d.fds = append(d.fds, l.file.FD())
	}
	for _, l := range layers {
		if l.grain != 0 && l.grain < int64(align) || l.file.Size()%int64(align) != 0 {
			return errUnaligned
		}
	}
	var below image.Layer
	for i := len(layers) - 1; i >= 0; i-- {
		l := layers[i]
		if l.grain == 0 {
			raw, err := image.NewRaw(l.file)
			if err != nil {
				return err
			}
			below = raw
			continue
		}
		m, err := image.Open(l.file, image.Options{ReadOnly: o.ReadOnly || i > 0, Backing: below})
		if err != nil {
			return err
		}
		below, d.top = m, m
	}
	block := o.BlockSize
	if block == 0 {
		block = max(target.SectorSize, align)
	}
	if block < align {
		return fmt.Errorf("%w: blocks of %d bytes are too small: direct I/O to %s has to be aligned to %d; use that, or buffered I/O",
			queue.ErrInvalid, block, d.files[0].Path(), align)
	}
	d.lim = target.Limits{
		Size: d.top.Size(), BlockSize: block, ReadOnly: o.ReadOnly, Discard: !o.ReadOnly, Zeroes: !o.ReadOnly, Cache: true, DMAAlign: mem,
	}
	d.lim.EnsureDefaults()
	if err := d.lim.Validate(); err != nil {
		return fmt.Errorf("%s: %w", d.files[0].Path(), err)
	}
	return nil
}

// Close makes everything durable, and closes the files.
func (d *Disk) Close() error { return errors.Join(d.top.Close(), d.closeFiles()) }

func (d *Disk) closeFiles() error {
	var errs []error
	for _, f := range d.files {
		errs = append(errs, unlock(f), f.Close())
	}
	return errors.Join(errs...)
}

// Limits implements target.Target.
func (d *Disk) Limits() target.Limits { return d.lim }

// Direct reports whether all files go past the page cache.
func (d *Disk) Direct() bool { return d.direct }

// fixedFiles is how many files of the chain are registered with a ring.
const fixedFiles = 8

// NewPart implements target.Target.
func (d *Disk) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return &handler{disk: d} }, FDs: d.fds[:min(len(d.fds), fixedFiles)]}, nil
}
