package zoned

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/zoned/zone"
	"varve/uring/queue"
)

// Options for Open.
type Options struct {
	// Format makes the file a new zoned disk, whose size is as many zones as fit. What the file held
	// is lost.
	Format bool
	// Geometry is that of a new disk; its Size is not looked at.
	Geometry zone.Geometry

	BlockSize int  // of a new disk: 512 or 4096; 0: what the file wants
	ReadOnly  bool // open the file for reading only
	Buffered  bool // go through the page cache instead of O_DIRECT

	Runtime string // the directory for running pointers, best in memory; it is made if needed
	Boot    string // tells this boot of the machine from others, by its first 16 bytes
}

// Disk is a zoned disk in a file or block device.
type Disk struct {
	disk
	notes []string
}

// medium is where a disk keeps its bytes and write pointers. It is safe for concurrent use.
type medium struct {
	file *backing.File
	fd   int
	data int64 // where zone 0 begins, in bytes

	zones    *zone.Set
	run      *running      // nil: read-only
	asked    atomic.Uint64 // flushes that were asked for
	mu       sync.Mutex    // serialises flushes, which are I/O; guards what follows
	flushed  uint64        // of asked: those that are durable
	pointers *pointers
	words    []zone.Word // what the flush that runs makes durable
	broken   error       // of a flush; all later ones fail
}

// Open opens a file or block device that holds a zoned disk, or makes it one. The caller closes the
// disk after its device has stopped.
func Open(path string, o Options) (*Disk, error) {
	f, err := backing.Open(path, backing.Options{ReadOnly: o.ReadOnly, Buffered: o.Buffered})
	if err != nil {
		return nil, err
	}
	d, err := open(f, &o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

func open(f *backing.File, o *Options) (*Disk, error) {
	if o.Format {
		if err := format(f, o); err != nil {
			return nil, err
		}
	}
	s, err := readSuper(f)
	if errors.Is(err, errNone) {
		return nil, fmt.Errorf("%w: %s has %w; format a new disk first", queue.ErrInvalid, f.Path(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", queue.ErrInvalid, f.Path(), err)
	}
	data := dataOffset(s.geo.Zones())
	if have := f.Size() - data; have < s.geo.Size {
		return nil, fmt.Errorf("%w: %s has shrunk: its zones have %d bytes, and there is room for %d", queue.ErrInvalid, f.Path(), s.geo.Size, max(have, 0))
	}
	if s.block < f.OffAlign() {
		return nil, fmt.Errorf("%w: %s has blocks of %d bytes; direct I/O to it has to be aligned to %d; use buffered I/O", queue.ErrInvalid, f.Path(), s.block, f.OffAlign())
	}
	d := &Disk{disk: disk{lim: limits(&s.geo, s.block), file: &medium{file: f, fd: f.FD(), data: data}}}
	d.lim.ReadOnly, d.lim.DMAAlign = o.ReadOnly, max(d.lim.DMAAlign, f.MemAlign())
	if err := d.recover(&s, o); err != nil {
		return nil, err
	}
	return d, nil
}

// format makes a file a new disk. The superblock is last: without it there is none.
func format(f *backing.File, o *Options) error {
	if _, err := readSuper(f); !errors.Is(err, errNone) {
		return fmt.Errorf("%w: %s is a zoned disk already; overwrite its first 8 KiB to format it again", queue.ErrInvalid, f.Path())
	}
	block, err := backing.BlockSize(o.BlockSize, f)
	if err != nil {
		return err
	}
	s := super{id: uuid.New(), geo: o.Geometry, block: block}
	s.geo.Size = s.geo.ZoneSize // for the check of the size of zones alone
	one := s.geo
	one.Conventional, one.MaxOpen, one.MaxActive = 0, 0, 0
	if err := one.Validate(); err != nil {
		return fmt.Errorf("%w: %w", queue.ErrInvalid, err)
	}
	zones := f.Size() / s.geo.ZoneSize
	for zones > 0 && (zones > zone.MaxZones || dataOffset(int(zones))+zones*s.geo.ZoneSize > f.Size()) {
		zones = min(zones-1, zone.MaxZones)
	}
	if zones == 0 {
		return fmt.Errorf("%w: %s has %d bytes; one zone of %d, and what describes it, take %d", queue.ErrInvalid, f.Path(), f.Size(),
			s.geo.ZoneSize, s.geo.ZoneSize+dataOffset(1))
	}
	s.geo.Size = zones * s.geo.ZoneSize
	if err := s.geo.Validate(); err != nil {
		return fmt.Errorf("%w: %w", queue.ErrInvalid, err)
	}
	t := newPointers(f, &s)
	if err := t.update(fresh(&s.geo)); err != nil {
		return err
	}
	return s.write(f)
}

// recover finds the write pointers, and makes what it found durable before they are moved.
func (d *Disk) recover(s *super, o *Options) error {
	f := d.file
	f.pointers = newPointers(f.file, s)
	lost, err := f.pointers.load(&s.geo)
	if err != nil {
		return err
	}
	for _, p := range lost {
		first := p * zonesPerPage
		d.notes = append(d.notes, fmt.Sprintf("the write pointers of zones %d to %d are damaged in both copies: these zones are read-only, and all that they hold can be read",
			max(first, s.geo.Conventional), min(first+zonesPerPage, s.geo.Zones())-1))
	}
	id, err := identify(f.fd, s, o.Boot)
	if err != nil {
		return err
	}
	words, err := id.left(o.Runtime)
	if err != nil {
		return err
	}
	if words == nil {
		words = make([]zone.Word, len(f.pointers.durable))
		for i, w := range f.pointers.durable {
			words[i] = w.PowerCycled()
		}
	}
	var memory []uint64
	if !o.ReadOnly {
		if err := f.begin(&id, o.Runtime, words); err != nil {
			return err
		}
		memory = f.run.words
	}
	if f.zones, err = zone.New(s.geo, words, memory); err != nil {
		return fmt.Errorf("%w: %s: %w", queue.ErrInvalid, f.file.Path(), err)
	}
	d.zones = f.zones
	return nil
}

// begin makes the words durable, and then the opening: what a server that has died had done counts
// from now on, whatever becomes of this one.
func (f *medium) begin(id *identity, dir string, words []zone.Word) error {
	if err := f.file.Sync(); err != nil {
		return err
	}
	if err := f.pointers.update(words); err != nil {
		return err
	}
	id.super.openings++
	if err := id.super.write(f.file); err != nil {
		return err
	}
	var err error
	f.words = make([]zone.Word, len(words))
	f.run, err = id.create(dir, words)
	return err
}

// Notes are for the user: what is damaged.
func (d *Disk) Notes() []string { return d.notes }

// Direct reports whether the disk goes past the page cache.
func (d *Disk) Direct() bool { return d.file.file.Direct() }

// Close makes everything durable and closes the file. The running pointers stay, for the next
// opening, if that fails.
func (d *Disk) Close() error {
	f := d.file
	if f.run == nil {
		return f.file.Close()
	}
	err := f.flush()
	if err == nil {
		err = f.run.remove()
	}
	return errors.Join(err, f.run.unmap(), f.file.Close())
}

// flush makes durable what was done before the call: the bytes, and then the pointers. It blocks.
func (f *medium) flush() error {
	asked := f.asked.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil || f.flushed >= asked { // another caller's flush began after this one was asked for
		return f.broken
	}
	now := f.asked.Load()
	f.zones.Snapshot(f.words)
	err := f.file.Sync()
	if err == nil {
		err = f.pointers.update(f.words)
	}
	if err != nil {
		f.broken = fmt.Errorf("flush of a zoned disk: %w", err)
		return f.broken
	}
	f.flushed = now
	return nil
}

// free frees the space of zones that are empty. They read as zeroes with or without it.
func (f *medium) free(offs []int64, size int64) {
	for i := 0; i < len(offs); {
		n := i + 1
		for n < len(offs) && offs[n] == offs[n-1]+size {
			n++
		}
		_ = f.file.Discard(f.data+offs[i], int64(n-i)*size) // where that can't be done the space stays taken
		i = n
	}
}
