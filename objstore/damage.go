package objstore

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs"
)

// unreadable reports an error that says no more than that the disk, or the file system on it, has lost some bytes:
// what a damaged file is to be treated like. Anything else (no memory, too many files) says nothing about the file.
func unreadable(err error) bool {
	for _, e := range []unix.Errno{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EILSEQ, unix.ENODATA, unix.EREMOTEIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// damaged reports an error that concerns the bytes of a file, and so what lies in them, not the whole store.
func damaged(err error) bool { return corrupt(err) || unreadable(err) }

// corrupt reports bytes that are not what they should be, as far as that is known: what could not be read for want of
// memory or descriptors may be.
func corrupt(err error) bool { return errors.Is(err, ErrCorrupt) && !passing(err) }

// content is a file in memory. Blocks that can't be read are zeroes.
type content struct {
	data []byte
	bad  []int64 // offsets of the blocks that can't be read
	err  error   // why the first of them can't

	stale bool // of a file of refs: it is not what the other one has become
}

// cause gives why, or what the disk said.
func (c *content) cause(why string) error {
	if c.err != nil {
		return c.err
	}
	return errors.New(why)
}

// badFrom gives the first unreadable block that has a byte at or after off; -1 if there is none.
func (c *content) badFrom(off int64) int64 {
	for _, at := range c.bad {
		if at+blockSize > off {
			return at
		}
	}
	return -1
}

// largestWhole is more bytes than any file has that is read whole.
const largestWhole = 4 << 30

// readWhole reads a file as far as its disk lets it be read.
func readWhole(f vfs.File) (content, error) {
	size, err := f.Size()
	if err != nil {
		return content{}, err
	}
	if size > largestWhole {
		return content{}, fmt.Errorf("%w: it has %d bytes, at most %d would make sense", ErrCorrupt, size, int64(largestWhole))
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err == nil || errors.Is(err, io.EOF) {
		return content{data: b[:n]}, nil
	}
	if !unreadable(err) {
		return content{}, err
	}
	c := content{data: b, err: err}
	for off := int64(0); off < size; off += blockSize {
		part := b[off:min(off+blockSize, size)]
		switch _, err := f.ReadAt(part, off); {
		case err == nil || errors.Is(err, io.EOF):
		case unreadable(err):
			clear(part)
			c.bad = append(c.bad, off)
		default:
			return content{}, err
		}
	}
	if len(c.bad) == 0 { // it was better the second time
		c.err = nil
	}
	return c, nil
}

// readAll reads a file that must be readable.
func readAll(f vfs.File) ([]byte, error) {
	c, err := readWhole(f)
	if err == nil && c.err != nil {
		err = fmt.Errorf("%d blocks can't be read, the first at byte %d: %w", len(c.bad), c.bad[0], c.err)
	}
	return c.data, err
}

// damagedSegments are those of which nobody knows all that is in them.
func (s *Store) damagedSegments() []*segment {
	return slices.DeleteFunc(s.segments.all(), func(g *segment) bool { return !g.isDamaged() })
}

// damageBook is what a store knows of its damage.
type damageBook struct {
	hold atomic.Bool // a volume is damaged: no segment of a former process is given back

	badMu   sync.Mutex
	bad     map[place]bool  // where an object can't be read, or (true) is another one and nobody is let read it
	repairs []*CorruptError // damage that opening has mended
	losses  []*CorruptError // damage that opening has found and could not mend
	strays  []string        // files that opening has found, and that are none of the store's
	anyBad  atomic.Bool     // for a look without the lock
	good    goodPlaces
	heals   atomic.Int64 // how often something that was lost has come back
}

// mended notes damage that opening has found and made good.
func (s *Store) mended(d *CorruptError) {
	s.log.Warn("damage was found and mended", "error", d)
	s.badMu.Lock()
	defer s.badMu.Unlock()
	s.repairs = append(s.repairs, d)
}

// lost notes damage that opening has found, and that concerns no more than what lies there.
func (s *Store) lost(err error) {
	s.log.Error("damage was found; the store opens with what is left", "error", err)
	var c *CorruptError
	if errors.As(err, &c) {
		s.badMu.Lock()
		defer s.badMu.Unlock()
		s.losses = append(s.losses, c)
	}
}

// maxBad bounds how many bad places are remembered. Past it a disk is lost anyway: damage is still found, by each reader
// for itself.
const maxBad = 1 << 20

// noteBad notes a place whose bytes are not those of the object that its segment's record names, or can't be read:
// nothing new is pointed to it, and what is written again gets another place. If it is wrong for certain, nobody reads
// from it either. It says whether the place is news.
func (s *Store) noteBad(pl place, wrong bool) bool {
	s.badMu.Lock()
	defer s.badMu.Unlock()
	was, known := s.bad[pl]
	if known || len(s.bad) < maxBad {
		if s.bad == nil {
			s.bad = map[place]bool{}
		}
		s.bad[pl] = was || wrong
		s.anyBad.Store(true)
	}
	s.good.forget(pl)
	return !known
}

// markBad notes a bad place, and tells of it. That the disk gave no answer may pass.
func (s *Store) markBad(pl place, err error) {
	if passing(err) {
		return
	}
	if s.noteBad(pl, corrupt(err) && !unreadable(err)) {
		s.log.Error("an object is damaged", "error", err)
	}
}

// well forgets that a place was bad: its bytes were read, and are right.
func (s *Store) well(pl place) {
	if !s.anyBad.Load() {
		return
	}
	s.badMu.Lock()
	defer s.badMu.Unlock()
	if s.bad[pl] {
		s.heals.Add(1)
	}
	delete(s.bad, pl)
}

// isBad reports a place that has the wrong bytes.
func (s *Store) isBad(pl place) bool {
	if !s.anyBad.Load() {
		return false
	}
	s.badMu.Lock()
	defer s.badMu.Unlock()
	return s.bad[pl]
}

// isSick reports a place that is bad, or could not be read.
func (s *Store) isSick(pl place) bool {
	if !s.anyBad.Load() {
		return false
	}
	s.badMu.Lock()
	defer s.badMu.Unlock()
	_, ok := s.bad[pl]
	return ok
}
