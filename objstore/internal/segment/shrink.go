package segment

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// Shrinking removes objects that nothing refers to from the list of a sealed segment, in four
// steps:
//
//	1  in memory: the list becomes that of an open segment, without the dead objects; look-ups miss them
//	2  the object log, shortened: a draft (ID.dir.new), durable; its name (ID.dir), durable
//	3  the footer goes, durably
//	4  what the list does not name is punched, and the segment is sealed again (Seal)
//
// A crash before the log has its name leaves the sealed segment as it was. A later one leaves a
// segment that the next opening seals again: the shortened log counts, with or without the footer.
// So no list ever names what may have been punched. If 4 came before 2 or 3, one would, and an
// index rebuilt from it would lead to zeroes.
//
// Refs have the least length of a segment's object log (refs.State.ObjectLogs), and a shorter log
// counts as damaged. So the shortened log repeats its entries until it is as long as the one that
// it replaces. Readers ignore repeated entries.

// Span is a run of bytes in a segment's file.
type Span struct{ From, To int64 }

// Shrinking describes what Shrink would remove, or has removed, from a segment's object list.
type Shrinking struct {
	Live, Dead []Object // in order of block
	Kept       int64    // bytes of objects in Live that are dead: in holes too short to be punched
	Alive      int64    // bytes that the objects occupy that were alive
	Holes      []Span   // to be punched: everything in them is dead; in order

	footer         int64 // the length of the footer that is replaced
	shortenings    int   // its number of shortenings
	version        uint64
	chunks, others int64
}

// Bytes returns what the dead objects occupy in the file.
func (s *Shrinking) Bytes() (n int64) {
	for i := range s.Dead {
		n += s.Dead[i].slot()
	}
	return n
}

// All returns what the objects occupy in the file, the dead ones too.
func (s *Shrinking) All() int64 {
	n := s.Bytes()
	for i := range s.Live {
		n += s.Live[i].slot()
	}
	return n
}

// Footers returns how long the footer is with the dead objects and without them, in bytes.
func (s *Shrinking) Footers() (with, without int64) {
	return footerLength(len(s.Live) + len(s.Dead)), footerLength(len(s.Live))
}

// slot returns the bytes that an object occupies in the file.
func (o *Object) slot() int64 { return disk.RoundUp(int64(o.Length), disk.BlockSize) }

// HoleLimits say which holes are worth making: each is an extent more, which costs the file system
// memory and time for the life of the segment.
type HoleLimits struct {
	Shortest int64 // bytes; shorter holes are only made where they lengthen one
	Most     int   // holes in a segment; 0: any number
}

// Surveyor surveys one segment after another in the same memory: lists are some MiB long, and
// garbage of that size keeps Go's collector busy, which delays requests. The zero Surveyor is ready
// to use. It is not safe for concurrent use.
type Surveyor struct {
	footer     []byte
	live, dead []Object
}

// Survey finds the dead objects of a sealed segment, and changes nothing. It reads the footer. The
// error is ErrListChanged, or a disk.CorruptError. The result is valid until the next call.
func (v *Surveyor) Survey(g *File, live func(*merkle.Hash) bool, limits HoleLimits) (*Shrinking, error) {
	footer, version := g.list()
	if footer > int64(cap(v.footer)) {
		v.footer = make([]byte, footer)
	}
	all, err := g.readFooterInto(v.footer[:cap(v.footer)])
	if err != nil {
		return nil, err
	}
	s := &Shrinking{footer: footer, shortenings: shorteningsIn(all), version: version, Live: v.live[:0], Dead: v.dead[:0]}
	for i := range all.Len() {
		o, err := all.At(i)
		if err != nil {
			return nil, &disk.CorruptError{File: Name(g.ID), Offset: g.Capacity, Object: "segment footer", Err: err}
		}
		s.sort(o, live)
	}
	v.live, v.dead = s.Live, s.Dead
	if !s.AllDead() {
		s.holes(g.Capacity, limits)
	}
	return s, nil
}

// SurveyOpen is Survey for a segment that is not sealed, as if it were sealed now. Its result must
// not be passed to Shrink.
func (g *File) SurveyOpen(live func(*merkle.Hash) bool, limits HoleLimits) *Shrinking {
	s := &Shrinking{}
	objs := g.OpenObjects()
	for i := range objs {
		s.sort(objs[i], live)
	}
	if !s.AllDead() {
		s.holes(g.Capacity, limits)
	}
	return s
}

// sort adds an object to the live or to the dead ones.
func (s *Shrinking) sort(o Object, live func(*merkle.Hash) bool) {
	s.Live = append(s.Live, o)
	last := len(s.Live) - 1
	if live(&s.Live[last].Hash) {
		s.Alive += o.slot()
		return
	}
	s.Live, s.Dead = s.Live[:last], append(s.Dead, o)
}

// AllDead reports whether nothing in the segment is alive. Such a segment is not shrunk, because an
// empty list could not be told from a lost one: the whole segment is removed.
func (s *Shrinking) AllDead() bool { return len(s.Live) == 0 && len(s.Dead) > 0 }

// holes sets s.Holes, and moves dead objects that lie in none of them to s.Live.
func (s *Shrinking) holes(capacity int64, limits HoleLimits) {
	type hole struct {
		Span
		dead, from, to int64 // bytes of dead objects, and which of Dead they are
	}
	var all []hole
	at, d := int64(disk.BlockSize), int64(0)
	for i := 0; i <= len(s.Live); i++ {
		end, next := capacity, capacity
		if i < len(s.Live) {
			end = int64(s.Live[i].Block) * disk.BlockSize
			next = end + s.Live[i].slot()
		}
		h := hole{Span: Span{at, end}, from: d}
		for ; d < int64(len(s.Dead)) && int64(s.Dead[d].Block)*disk.BlockSize < end; d++ {
			h.dead += s.Dead[d].slot()
		}
		h.to = d
		// If a part is a hole already, one hole for all of it needs no more extents.
		if h.dead > 0 && (end-at >= limits.Shortest || h.dead < end-at) {
			all = append(all, h)
		}
		at = max(at, next)
	}
	if limits.Most > 0 && len(all) > limits.Most {
		slices.SortFunc(all, func(a, b hole) int { return cmp.Compare(b.dead, a.dead) })
		all = all[:limits.Most]
		slices.SortFunc(all, func(a, b hole) int { return cmp.Compare(a.From, b.From) })
	}
	var dead, kept []Object
	done := int64(0) // end of the part of s.Dead that is done
	s.Holes = nil
	for _, h := range all {
		kept = append(kept, s.Dead[done:h.from]...)
		dead = append(dead, s.Dead[h.from:h.to]...)
		s.Holes = append(s.Holes, h.Span)
		done = h.to
	}
	kept = append(kept, s.Dead[done:]...)
	for i := range kept {
		s.Kept += kept[i].slot()
	}
	s.Dead, s.Live = dead, merge(s.Live, kept)
}

// merge returns the objects of two lists that are in order of block, in that order.
func merge(a, b []Object) []Object {
	if len(b) == 0 {
		return a
	}
	all := make([]Object, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].Block <= b[0].Block {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}

// Shrink removes the objects that Survey found dead from the list, durably (steps 1 to 3), except
// those that live now reports alive. When it has returned, look-ups miss them. The caller waits for
// the readers of s.Holes, punches, and then seals the segment. Shrink blocks; held over I/O:
// listMu.
//
// live is called with g's lock held, and must not block. A settling that wants to refer to an
// object relies on that order: it first makes the object alive, and then looks at the list. So
// either live reports it here, or the look-up misses.
//
// REQUIRES: not s.AllDead().
//
// After disk.ErrNoSpace and disk.Transient errors the segment is unchanged if s.Dead is empty.
// Otherwise its list is the shorter one, nothing may be punched, and Uncover continues the work.
// After any other error it is unknown what a crash would leave.
func (g *File) Shrink(fs vfs.FS, store uuid.UUID, s *Shrinking, live func(*merkle.Hash) bool, limits HoleLimits) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	if !g.condemn(s, live, limits) {
		s.Dead, s.Holes = nil, nil
		return nil
	}
	if err := g.shorten(fs, store, s); err != nil {
		g.acquit(s)
		return err
	}
	return g.uncover(fs, store)
}

// condemn does step 1. It returns false, and does nothing, if nothing is dead any more.
// REQUIRES: listMu is held.
func (g *File) condemn(s *Shrinking, live func(*merkle.Hash) bool, limits HoleLimits) bool {
	next, chunks, others := listOf(s.Live) // before mu is taken, as look-ups wait for it
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.damaged != nil || g.footer != s.footer || g.version != s.version {
		return false
	}
	var dead, revived []Object
	for _, o := range s.Dead {
		if live(&o.Hash) {
			revived = append(revived, o)
			s.Alive += o.slot()
		} else {
			dead = append(dead, o)
		}
	}
	if len(revived) > 0 {
		s.Dead, s.Live = dead, merge(s.Live, revived)
		s.holes(g.Capacity, limits)
		next, chunks, others = listOf(s.Live)
	}
	if len(s.Dead) == 0 {
		return false
	}
	s.chunks, s.others = g.chunks, g.others
	g.objects, g.chunks, g.others, g.footer = next, chunks, others, 0
	g.version++
	return true
}

// listOf returns the list of an open segment that has these objects, and their bytes by kind.
func listOf(objs []Object) (list map[uint32]Object, chunks, others int64) {
	l := File{objects: make(map[uint32]Object, len(objs))}
	for _, o := range objs {
		l.enter(o)
	}
	return l.objects, l.chunks, l.others
}

// acquit undoes step 1.
// REQUIRES: listMu is held.
func (g *File) acquit(s *Shrinking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.objects, g.objectLog = nil, nil
	g.chunks, g.others, g.footer = s.chunks, s.others, s.footer
	g.version++
	s.Dead, s.Holes = nil, nil
}

// shorten does step 2, except for making the name durable. After an error the footer is the list,
// and there is no object log.
// REQUIRES: listMu is held.
func (g *File) shorten(fs vfs.FS, store uuid.UUID, s *Shrinking) error {
	draft := DraftName(g.ID)
	if err := fs.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := record.Create(fs, draft, ObjectLogID(store, g.ID))
	if err != nil {
		return err
	}
	if err = g.draft(l, s); err == nil {
		failpoint.Here(failpoint.CollectDrafted)
		err = fs.Rename(draft, ObjectLogName(g.ID))
	}
	if err != nil {
		_ = fs.Remove(draft) // else opening removes it
		return errors.Join(disk.SpaceError(err), l.Close())
	}
	l.Renamed(ObjectLogName(g.ID))
	g.mu.Lock()
	g.objectLog, g.shortened, g.replaced, g.uncovered = l, true, s.shortenings, false
	g.mu.Unlock()
	return nil
}

// draft writes what is left to an empty object log, durably, and repeats it until the log is as long
// as the one before.
func (g *File) draft(l *record.Log, s *Shrinking) error {
	if len(s.Live) == 0 {
		return fmt.Errorf("segment %08x: %w: a list of no objects", g.ID, disk.ErrInvalid)
	}
	g.mu.Lock()
	length := g.logged
	g.mu.Unlock()
	payload := encodeShortened(s.Live, s.shortenings)
	for p := range slices.Chunk(payload, record.MaxPayload/ObjectSize*ObjectSize) {
		if err := l.Draft(p); err != nil {
			return err
		}
	}
	for l.Size() < length {
		if err := l.Draft(repeated(payload, length-l.Size())); err != nil {
			return err
		}
	}
	return l.SyncDraft()
}

const (
	longestRepeat = 1 << 20 // bytes of a frame that repeats entries
	wholeRepeat   = 4 << 10 // up to this many bytes, entries are repeated all or not at all
)

// repeated returns entries for a log that lacks so many bytes: hardly more than that, as a log that
// is too long makes all that replace it as long.
func repeated(payload []byte, lacks int64) []byte {
	step := ObjectSize
	if len(payload) <= wholeRepeat {
		step = len(payload)
	}
	n := max(int(min(lacks, longestRepeat))/step, 1) * step
	if n <= len(payload) {
		return payload[:n]
	}
	return slices.Repeat(payload, (n+len(payload)-1)/len(payload))[:n]
}

// encodeShortened is EncodeObjects for a log that replaces a footer with that number of shortenings.
func encodeShortened(objs []Object, shortenings int) []byte {
	b := EncodeObjects(objs)
	markShortenings(b, shortenings)
	for at := flagsOffset; at < len(b); at += ObjectSize {
		b[at] |= shortenedFlag
	}
	return b
}

// Uncover continues a shortening that was interrupted after step 2: it makes the log's name
// durable, and drops the footer. A segment that was not shortened, or is sealed again, is left
// alone. Uncover blocks; held over I/O: listMu. Its errors are those of Shrink.
func (g *File) Uncover(fs vfs.FS, store uuid.UUID) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	return g.uncover(fs, store)
}

// uncover is Uncover.
// REQUIRES: listMu is held.
func (g *File) uncover(fs vfs.FS, store uuid.UUID) error {
	if !g.shortened || g.uncovered {
		return nil
	}
	if err := fs.SyncDir(Dir); err != nil {
		return err
	}
	failpoint.Here(failpoint.CollectRecorded)
	if err := g.dropFooter(store); err != nil {
		return err
	}
	g.uncovered = true
	failpoint.Here(failpoint.CollectUncover)
	return nil
}

// dropFooter does step 3, for readers that trust a footer more than an object log that names less:
// earlier versions of varve, and an opening that cannot read the log.
// REQUIRES: listMu is held.
func (g *File) dropFooter(store uuid.UUID) error {
	if err := g.writeHeader(store, 0); err != nil {
		return disk.SpaceError(err)
	}
	if err := g.Data.Truncate(g.Capacity); err != nil {
		return disk.SpaceError(err)
	}
	return g.Sync()
}

// Shortened reports whether dead objects were taken out of the list and the segment is not sealed
// again yet.
func (g *File) Shortened() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shortened
}

// shortenings returns how many times dead objects were taken out of the list of an open segment.
// REQUIRES: listMu is held, or g is not shared yet.
func (g *File) shortenings() int {
	if !g.shortened {
		return 0
	}
	return g.replaced + 1
}

// SetLogged sets the length in bytes that the object log had according to refs.
func (g *File) SetLogged(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.logged = max(g.logged, n)
}
