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

// A chunk that the store has already is not stored again: what was written is dropped for the copy that is there. So that
// copy is read first, and compared: one that has rotted would replace good bytes. On volumes with verify that is done each
// time, on others unless the location was verified within the last hour (object.Verified). Copies that lie one after the other,
// as those of a file that was written twice do, are read at once. A copy that is wrong is quarantined, and what was
// written stored anew.

// hit is a chunk of a run that settles, and where the store has it.
type hit struct {
	hash merkle.Hash
	at   segment.Location // 0: nowhere
}

// lookUp hashes the chunks of a run, finds where the store has them, and confirms what it finds. slot is the first one's in
// its leaf, of which n and out are the old hashes and locations.
func (st *settling) lookUp(buf []byte, slot uint64, n *merkle.Node, out *leaf) error {
	size := st.old.ChunkSize
	st.hits = st.hits[:0]
	for o := 0; o < len(buf); o += size {
		var h hit
		if data := buf[o : o+size]; !disk.AllZero(data) {
			h.hash = merkle.Sum(merkle.KindChunk, data)
			i := slot + uint64(o/size)
			if pl := out.locations[i]; h.hash == n[i] && pl != segment.Lost && !st.s.objects.Quarantine.Suspect(pl) {
				h.at = pl
			} else if pl, ok := st.find(&h.hash, merkle.KindChunk); ok {
				h.at = pl
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

// trusts reports a location that need not be read: none, one of this settling's own objects, or one that was good not long ago.
func (st *settling) trusts(pl segment.Location) bool {
	if pl == 0 || st.own[pl] {
		return true
	}
	return !st.v.verify.Load() && st.s.objects.Verified.Has(pl)
}

// confirmRun compares the chunks in data with what lies at their locations, one after the other.
func (st *settling) confirmRun(data []byte, hits []hit) error {
	if len(hits) > 1 && st.same(data, hits[0].at) == nil {
		for i := range hits {
			st.s.objects.Verified.Add(hits[i].at)
		}
		return nil
	}
	size := st.old.ChunkSize
	for i := range hits { // each for itself
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

// confirm reports whether the object lies at pl as it should. If not, the location is quarantined.
func (st *settling) confirm(k merkle.Kind, h *merkle.Hash, pl segment.Location, data []byte) (bool, error) {
	err := st.same(data, pl)
	if err == nil {
		st.s.objects.Verified.Add(pl)
		return true, nil
	}
	if !disk.Damaged(err) {
		return false, fmt.Errorf("read %v %v in %s at byte %d: %w", k, h, segment.Name(pl.Segment()), pl.Offset(), err)
	}
	st.s.objects.Damaged(pl, &CorruptError{File: segment.Name(pl.Segment()), Offset: pl.Offset(), Object: fmt.Sprintf("%v %v", k, h), Err: err})
	st.restores = true // it is stored anew
	return false, nil
}

// errOtherBytes is an error of damage.
var errOtherBytes = fmt.Errorf("%w: its bytes have another hash", ErrCorrupt)

// same compares data with the bytes that lie at pl, past the page cache.
func (st *settling) same(data []byte, pl segment.Location) error {
	g := st.s.segments.Get(pl.Segment())
	if g == nil {
		return errOtherBytes
	}
	n := int(disk.RoundUp(int64(len(data)), disk.BlockSize))
	if cap(st.copyBuf) < n {
		st.copyBuf = disk.AlignedBuffer(n)
	}
	b := st.copyBuf[:n]
	err := disk.ReadAligned(g.Data, b, pl.Offset())
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errOtherBytes
	case err == nil && !bytes.Equal(b[:len(data)], data):
		return errOtherBytes
	}
	return err
}
