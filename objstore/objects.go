package objstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// lookup asks the index where an object lies, and checks the answer against the segment's own record.
func (s *Store) lookup(h *merkle.Hash, k merkle.Kind) (segment.Location, bool) {
	pl, ok := s.index.Get(h)
	if !ok {
		return 0, false
	}
	_, err := s.check(pl, h, k)
	return pl, err == nil && !s.isSick(pl)
}

var (
	errNoSuchObject = errors.New("the segment's record has no such object there")
	errOtherHash    = errors.New("its bytes have another hash")
)

// check says whether the object lies at pl, and how many bytes it has.
func (s *Store) check(pl segment.Location, h *merkle.Hash, k merkle.Kind) (int, error) {
	g := s.segments.Get(pl.Segment())
	if g == nil {
		return 0, errNoSuchObject
	}
	o, ok, sealed, damage := g.Listed(pl.Block())
	damaged := damage != nil
	if s.isBad(pl) {
		return 0, errNoSuchObject
	}
	if ok {
		damaged = false
	}
	if sealed && !damaged {
		entries, err := s.footers.Get(g)
		if err != nil {
			s.noteDamage(g, err)
			damaged = true
		} else {
			o, ok = entries.Find(pl.Block())
		}
	}
	if damaged {
		return s.checkContent(g, pl, h, k)
	}
	if !ok || o.Hash != *h || o.Kind != k {
		return 0, errNoSuchObject
	}
	return int(o.Length), nil
}

// noteDamage records that a segment's footer can't be read: its objects are told by their content from now on.
func (s *Store) noteDamage(g *segment.File, err error) {
	if g.SetDamage(err) {
		s.log.Error("a segment's footer is damaged; its objects are checked by their content", "error", err)
	}
}

// checkContent looks at the bytes themselves, where the segment's record is damaged.
func (s *Store) checkContent(g *segment.File, pl segment.Location, h *merkle.Hash, k merkle.Kind) (int, error) {
	step, largest := 32, merkle.NodeSize
	switch k {
	case merkle.KindChunk:
		step, largest = s.sb.chunkSize, s.sb.chunkSize
	case merkle.KindRoot:
		step, largest = merkle.RootSize, merkle.RootSize
	default: // a tree node, of any number of hashes
	}
	b := make([]byte, largest)
	n, _ := g.Data.ReadAt(b, pl.Offset())
	for size := step; size <= n; size += step {
		if merkle.Sum(k, b[:size]) == *h {
			return size, nil
		}
	}
	return 0, errNoSuchObject
}

// readObject reads a small object and checks it against its hash. Where its bytes are wrong, another place is
// looked for.
func (s *Store) readObject(h *merkle.Hash, k merkle.Kind) ([]byte, error) {
	var first error
	var last segment.Location
	for {
		pl, n, err := s.locate(h, k)
		if err != nil || first != nil && pl == last { // the same again: more is bad than is remembered
			return nil, cmp.Or(first, err)
		}
		last = pl
		b, err := s.readPlace(pl, n, h, k)
		if err == nil {
			return b, nil
		}
		if !disk.Corrupt(err) {
			return nil, cmp.Or(first, err)
		}
		first = cmp.Or(first, err)
		s.markBad(pl, err)
	}
}

// readPlace reads the n bytes of an object and checks them.
func (s *Store) readPlace(pl segment.Location, n int, h *merkle.Hash, k merkle.Kind) ([]byte, error) {
	name := segment.Name(pl.Segment())
	bad := func(err error) error {
		return &CorruptError{File: name, Offset: pl.Offset(), Object: fmt.Sprintf("%v %v", k, h), Err: err}
	}
	g := s.segments.Get(pl.Segment())
	if g == nil {
		return nil, bad(errNoSuchObject)
	}
	b := make([]byte, n)
	got, err := g.Data.ReadAt(b, pl.Offset())
	switch {
	case got == n:
	case errors.Is(err, io.EOF):
		return nil, bad(fmt.Errorf("the file ends after %d of its %d bytes", got, n))
	default:
		return nil, fmt.Errorf("read %v %v in %s at byte %d: %w", k, h, name, pl.Offset(), err)
	}
	if merkle.Sum(k, b) != *h {
		return nil, bad(errOtherHash)
	}
	return b, nil
}

// node gives a tree node, which the caller must not change.
func (s *Store) node(h merkle.Hash, level int) (*merkle.Node, error) {
	s.nodesMu.Lock()
	n, ok := s.nodes.Get(h)
	s.nodesMu.Unlock()
	if ok {
		return n, nil
	}
	n, err := s.freshNode(h, level)
	if err == nil {
		s.keepNode(h, n)
	}
	return n, err
}

// freshNode reads a tree node from its segment.
func (s *Store) freshNode(h merkle.Hash, level int) (*merkle.Node, error) {
	b, err := s.readObject(&h, merkle.NodeKind(level))
	if err != nil {
		return nil, err
	}
	n, err := merkle.DecodeNode(b)
	if err != nil {
		return nil, &CorruptError{File: segment.Dir, Object: "tree node " + h.String(), Err: err}
	}
	return n, nil
}

func (s *Store) keepNode(h merkle.Hash, n *merkle.Node) {
	s.nodesMu.Lock()
	s.nodes.Add(h, n)
	s.nodesMu.Unlock()
}

// readRoot reads a root object. The root of an image of zeroes needs no object.
func (s *Store) readRoot(id merkle.Hash, size int64) (*merkle.Root, error) {
	return s.readRootAt(id, size, located{})
}

// readRootAt is readRoot for one that was located already, or else is looked for.
func (s *Store) readRootAt(id merkle.Hash, size int64, at located) (*merkle.Root, error) {
	empty := s.emptyRoot(size)
	if empty.Hash() == id {
		return &empty, nil
	}
	b, err := []byte(nil), error(nil)
	if at.place != 0 {
		b, err = s.readPlace(at.place, at.bytes, &id, merkle.KindRoot)
	}
	if at.place == 0 || disk.Damaged(err) {
		b, err = s.readObject(&id, merkle.KindRoot)
	}
	if disk.Damaged(err) {
		return s.rebuildRoot(id, empty, err)
	}
	if err != nil {
		return nil, err
	}
	r, err := merkle.DecodeRoot(b)
	if err == nil && r.ChunkSize != s.sb.chunkSize {
		err = fmt.Errorf("chunk size %d bytes in a store of %d", r.ChunkSize, s.sb.chunkSize)
	}
	if err != nil {
		return nil, &CorruptError{File: segment.Dir, Object: "root " + id.String(), Err: err}
	}
	return r, nil
}

// rebuildRoot makes a root object that is lost again: all but the hash of its top node is known, and the segments
// list the nodes of that level. The root's own hash says which one it was.
func (s *Store) rebuildRoot(id merkle.Hash, r merkle.Root, cause error) (*merkle.Root, error) {
	found := false
	try := func(top merkle.Hash) bool {
		r.Top = top
		found = r.Hash() == id
		return !found
	}
	s.eachOfLevel(r.Depth, try)
	if !found {
		return nil, cause
	}
	s.log.Warn("a root object is lost and was made again from its tree", "root", id, "error", cause)
	return &r, nil
}

// eachOfLevel calls f with the hash of every tree node of a level, and of all that could be one where a segment's record is
// damaged, until f says no.
func (s *Store) eachOfLevel(level int, f func(merkle.Hash) bool) {
	for _, g := range s.segments.All() {
		objs, err := g.Objects()
		if err != nil {
			continue
		}
		for _, o := range objs {
			if o.Kind == merkle.NodeKind(level) && !f(o.Hash) {
				return
			}
		}
	}
	for _, g := range s.damagedSegments() {
		if !s.eachNode(g, level, f) {
			return
		}
	}
}

func (s *Store) emptyRoot(size int64) merkle.Root {
	return merkle.EmptyRoot(size, s.sb.chunkSize)
}
