package objstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// A chunk that the store already has is not stored again: the written bytes are dropped in favour
// of that copy. So the copy is read first and compared, since a copy that has rotted would replace
// good bytes. Volumes with verified reads compare each time, others unless the location was
// verified within the last hour (object.Verified). Copies that lie one after the other, as those of
// a file that was written twice do, are read at once. A wrong copy is quarantined, and the written
// bytes are stored again.

// hit is a chunk of a run that settles, and where the store has it.
type hit struct {
	hash merkle.Hash
	at   segment.Location // 0: the store does not have it
}

// lookUp hashes the chunks of a run, finds where the store has them, and confirms what it finds.
// slot is the number of the run's first chunk in its leaf; n and out are the old hashes and
// locations of the leaf.
func (st *settling) lookUp(buf []byte, slot uint64, n *merkle.Node, out *leaf) error {
	size := st.old.ChunkSize
	st.hits = st.hits[:0]
	for o := 0; o < len(buf); o += size {
		var h hit
		if data := buf[o : o+size]; !disk.AllZero(data) {
			h.hash = merkle.Sum(merkle.KindChunk, data)
			st.barrier.keep(&h.hash) // before it is looked for
			i := slot + uint64(o/size)
			if loc := out.locations[i]; h.hash == n[i] && st.there(loc) && !st.objects.Quarantine.Suspect(loc) {
				h.at = loc
			} else if loc, ok := st.find(&h.hash, merkle.KindChunk); ok {
				h.at = loc
			}
		}
		st.hits = append(st.hits, h)
	}
	blocks := segment.Location(size / disk.BlockSize)
	for i := 0; i < len(st.hits); {
		end := i + 1
		if st.trusts(st.hits[i].at) {
			i++
			continue
		}
		for end < len(st.hits) && st.hits[end].at == st.hits[end-1].at+blocks && !st.trusts(st.hits[end].at) {
			end++
		}
		if err := st.confirmRun(buf[i*size:end*size], st.hits[i:end]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// trusts reports whether loc need not be read: it is 0, of one of this settling's own objects, or
// was verified not long ago.
func (st *settling) trusts(loc segment.Location) bool {
	if loc == 0 || st.own[loc] {
		return true
	}
	return !st.v.verify.Load() && st.objects.Verified.Has(loc)
}

// confirmRun compares the chunks in data with what lies at their locations, one after the other.
func (st *settling) confirmRun(data []byte, hits []hit) error {
	if len(hits) > 1 && st.same(data, hits[0].at) == nil {
		for i := range hits {
			st.objects.Verified.Add(hits[i].at)
		}
		return nil
	}
	size := st.old.ChunkSize
	for i := range hits { // one by one
		ok, err := st.confirm(merkle.KindChunk, &hits[i].hash, hits[i].at, data[i*size:(i+1)*size])
		if err != nil {
			return err
		}
		if !ok {
			hits[i].at = 0
		}
	}
	return nil
}

// confirm reports whether the bytes at loc are those of the object. If not, the location is
// quarantined.
func (st *settling) confirm(k merkle.Kind, h *merkle.Hash, loc segment.Location, data []byte) (bool, error) {
	err := st.same(data, loc)
	if err == nil {
		st.objects.Verified.Add(loc)
		return true, nil
	}
	if errors.Is(err, errRetired) {
		return false, nil
	}
	if !disk.Damaged(err) {
		return false, fmt.Errorf("read %v %v in %s at byte %d: %w", k, h, segment.Name(loc.Segment()), loc.Offset(), err)
	}
	st.objects.Damaged(loc, &CorruptError{File: segment.Name(loc.Segment()), Offset: loc.Offset(), Object: fmt.Sprintf("%v %v", k, h), Err: err})
	st.restores = true // the object is stored again
	return false, nil
}

// there reports whether a location in a leaf in memory can be read: its segment was not retired
// since the leaf was loaded.
func (st *settling) there(loc segment.Location) bool {
	return loc == 0 || loc != segment.Lost && st.segments.Get(loc.Segment()) != nil
}

// errRetired is for a location in a segment that was retired since the look-up.
var errRetired = errors.New("its segment was retired")

// errOtherBytes is the damage of an object whose bytes are not its own.
var errOtherBytes = fmt.Errorf("%w: its bytes have another hash", ErrCorrupt)

// same compares data with the bytes that lie at loc, past the page cache.
func (st *settling) same(data []byte, loc segment.Location) error {
	g := st.segments.Get(loc.Segment())
	if g == nil {
		return errRetired
	}
	n := int(disk.RoundUp(int64(len(data)), disk.BlockSize))
	if cap(st.copyBuf) < n {
		st.copyBuf = disk.AlignedBuffer(n)
	}
	b := st.copyBuf[:n]
	err := disk.ReadAligned(g.Data, b, loc.Offset())
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errOtherBytes
	case err == nil && !bytes.Equal(b[:len(data)], data):
		return errOtherBytes
	}
	return err
}
