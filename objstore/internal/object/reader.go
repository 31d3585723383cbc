package object

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// Index is what a Reader asks of the store's index.
type Index interface {
	// Get returns where an object lies, which is a hint.
	Get(h *merkle.Hash) (segment.Location, bool)
	// Complete reports whether the index has all objects of a segment. Those of the others are
	// searched first.
	Complete(segment uint32) bool
	// Found is called with objects that a search has found.
	Found(objs []Found)
}

// Found is an object that a segment's list names.
type Found struct {
	Hash     merkle.Hash
	Kind     merkle.Kind
	Location segment.Location
}

// Options are what a Reader works on. All are required.
type Options struct {
	Segments  *segment.Table
	Pins      *segment.Pins // held by every method while it looks at segments
	Footers   *segment.FooterCache
	Sketches  *segment.Sketches
	Index     Index
	Logger    *slog.Logger
	ChunkSize int // bytes
}

// Reader finds and reads objects.
type Reader struct {
	Quarantine Quarantine
	Verified   Verified

	segments  *segment.Table
	pins      *segment.Pins
	footers   *segment.FooterCache
	sketches  *segment.Sketches
	index     Index
	log       *slog.Logger
	chunkSize int

	absent    absentees
	moves     atomic.Int64  // how often objects were moved; see Move
	lastChunk atomic.Uint32 // the segment in which a search has found a chunk last
	lastNode  atomic.Uint32 // and a node or a root
	depth     atomic.Int64  // the level of the highest node that there can be; see Deepen

	nodesMu lockorder.Mutex[lockorder.Memory]
	nodes   *simplelru.LRU[merkle.Hash, *merkle.Node]

	scansMu lockorder.Mutex[lockorder.Memory]
	scans   map[uint32]*scan // of damaged segments
}

// NewReader returns a Reader that knows of no damage.
func NewReader(o Options) *Reader {
	r := &Reader{
		segments: o.Segments, pins: o.Pins, footers: o.Footers, sketches: o.Sketches, index: o.Index, log: o.Logger, chunkSize: o.ChunkSize,
		scans: map[uint32]*scan{},
	}
	r.nodes, _ = simplelru.NewLRU[merkle.Hash, *merkle.Node](NodeCache, nil) // fails for size 0 only
	return r
}

// Deepen notes that nodes up to a level may be looked for: in damaged segments that many levels are
// tried. It must not be called concurrently with itself.
func (r *Reader) Deepen(level int) { r.depth.Store(max(r.depth.Load(), int64(level))) }

var (
	errNotListed = errors.New("the segment's record has no such object there")
	errRetired   = errors.New("its segment was retired since it was looked up")
	errOtherHash = errors.New("its bytes have another hash")
)

// Lookup asks the index where an object lies, and validates the answer. It does not search: an
// object that the index does not know is not found. For a suspect, ok is false and the location is
// returned.
func (r *Reader) Lookup(h *merkle.Hash, k merkle.Kind) (l segment.Location, ok bool) {
	defer r.pins.Hold().Release()
	l, ok = r.index.Get(h)
	if !ok {
		return 0, false
	}
	_, err := r.Validate(l, h, k)
	return l, err == nil && !r.Quarantine.Suspect(l)
}

// Validate returns the length in bytes of an object at a location, by the segment's object list or,
// where that is damaged, by its content. If the object is not there, or the location is
// quarantined, it returns an error.
func (r *Reader) Validate(l segment.Location, h *merkle.Hash, k merkle.Kind) (int, error) {
	defer r.pins.Hold().Release()
	g := r.segments.Get(l.Segment())
	if g == nil {
		return 0, errNotListed
	}
	if r.Quarantine.Quarantined(l) {
		return 0, errNotListed
	}
	o, ok, damaged := r.listed(g, l.Block())
	if damaged {
		return r.validateContent(g, l, h, k)
	}
	if !ok || o.Hash != *h || o.Kind != k {
		return 0, errNotListed
	}
	return int(o.Length), nil
}

// Lists reports whether a segment's list names an object, or can't be relied on.
func (r *Reader) Lists(g *segment.File, o *segment.Object) bool {
	defer r.pins.Hold().Release()
	now, ok, damaged := r.listed(g, o.Block)
	return damaged || ok && now == *o
}

// listed returns the object that a segment's list names at a block. damaged reports that the list
// does not tell.
func (r *Reader) listed(g *segment.File, block uint32) (o segment.Object, ok, damaged bool) {
	for {
		o, ok, sealed, damage := g.Listed(block)
		if !sealed || damage != nil && !ok {
			return o, ok, damage != nil && !ok
		}
		entries, err := r.footers.Get(g)
		if errors.Is(err, segment.ErrListChanged) {
			continue
		}
		if err != nil {
			r.NoteDamage(g, err)
			return o, false, true
		}
		o, ok = entries.Find(block)
		return o, ok, false
	}
}

// NoteDamage notes that a segment's object list cannot be read: its objects are found by their
// content from now on.
func (r *Reader) NoteDamage(g *segment.File, err error) {
	if g.SetDamage(err) {
		r.log.Error("a segment's footer is damaged; its objects are checked by their content", "error", err)
	}
}

// Read reads a small object and checks it against its hash. A location with wrong bytes is
// quarantined, and the object is sought elsewhere.
func (r *Reader) Read(ctx context.Context, h *merkle.Hash, k merkle.Kind) ([]byte, error) {
	return r.read(ctx, h, k, nil)
}

// read is Read into room, if that is long enough, or a buffer of its own.
func (r *Reader) read(ctx context.Context, h *merkle.Hash, k merkle.Kind, room []byte) ([]byte, error) {
	defer r.pins.Hold().Release()
	var first error
	var last segment.Location
	for {
		l, n, err := r.Locate(ctx, h, k)
		if err != nil || first != nil && l == last { // the same again: more is damaged than is remembered
			return nil, cmp.Or(first, err)
		}
		last = l
		b, err := r.readAt(l, n, h, k, room)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, errRetired) {
			last = 0 // it lies elsewhere
			continue
		}
		if !disk.Corrupt(err) {
			return nil, cmp.Or(first, err)
		}
		first = cmp.Or(first, err)
		r.Damaged(l, err)
	}
}

// ReadAt reads the n bytes of an object at a location, and checks them against its hash.
func (r *Reader) ReadAt(l segment.Location, n int, h *merkle.Hash, k merkle.Kind) ([]byte, error) {
	return r.readAt(l, n, h, k, nil)
}

// readAt is ReadAt into room, if that is long enough, or a buffer of its own.
func (r *Reader) readAt(l segment.Location, n int, h *merkle.Hash, k merkle.Kind, room []byte) ([]byte, error) {
	defer r.pins.Hold().Release()
	name := segment.Name(l.Segment())
	bad := func(err error) error {
		return &disk.CorruptError{File: name, Offset: l.Offset(), Object: fmt.Sprintf("%v %v", k, h), Err: err}
	}
	g := r.segments.Get(l.Segment())
	if g == nil {
		return nil, bad(errRetired)
	}
	if n > len(room) {
		room = make([]byte, n)
	}
	b := room[:n]
	got, err := g.Data.ReadAt(b, l.Offset())
	switch {
	case got == n:
	case errors.Is(err, io.EOF):
		return nil, bad(fmt.Errorf("the file ends after %d of its %d bytes", got, n))
	default:
		return nil, fmt.Errorf("read %v %v in %s at byte %d: %w", k, h, name, l.Offset(), err)
	}
	if merkle.Sum(k, b) != *h {
		return nil, bad(errOtherHash)
	}
	return b, nil
}

// Intact reads an object to see whether it lies at a location. If its bytes are wrong, the location
// is quarantined.
func (r *Reader) Intact(l segment.Location, h *merkle.Hash, k merkle.Kind) bool {
	defer r.pins.Hold().Release()
	n, err := r.Validate(l, h, k)
	if err != nil || r.Quarantine.Suspect(l) {
		return false
	}
	switch _, err = r.ReadAt(l, n, h, k); {
	case errors.Is(err, errRetired):
		return false
	case disk.Damaged(err):
		r.Damaged(l, err)
		return false
	}
	return true
}

// Suspect makes a location suspect whose bytes cannot be read, or are not those of the object that
// the segment's list names. quarantine says that they are certainly wrong. It reports whether this
// was not known before.
func (r *Reader) Suspect(l segment.Location, quarantine bool) (news bool) {
	news = r.Quarantine.add(l, quarantine)
	r.Verified.Forget(l)
	return news
}

// Damaged makes a location suspect that returned an error of damage, quarantines it if the bytes
// are wrong, and logs it. A transient error says nothing about the location, and is ignored.
func (r *Reader) Damaged(l segment.Location, err error) {
	if disk.Transient(err) {
		return
	}
	if r.Suspect(l, disk.Corrupt(err) && !disk.Unreadable(err)) {
		r.log.Error("an object is damaged", "error", err)
	}
}

// Verify notes that the bytes at a location were read and are right. A suspect is cleared.
func (r *Reader) Verify(l segment.Location) {
	r.Quarantine.clear(l)
	r.Verified.Add(l)
}

// Stored notes objects that have just been stored. If any was searched for in vain, a new repair
// generation begins.
func (r *Reader) Stored(objs []segment.Object) {
	if r.absent.remove(objs) {
		r.Quarantine.Repaired()
	}
}

// Gone notes that a location has no object any more.
func (r *Reader) Gone(l segment.Location) {
	r.Quarantine.forget(l)
	r.Verified.Forget(l)
}
