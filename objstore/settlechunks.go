package objstore

import (
	"errors"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// oldLocations fills in where the leaf's chunks lay before.
func (st *settling) oldLocations(i int64, n *merkle.Node, out *leaf) error {
	st.v.mu.Lock()
	if l := st.v.base.leaf(i); l != nil {
		out.locations, out.repairGen = l.locations, l.repairGen
		st.v.mu.Unlock()
		return nil
	}
	st.v.mu.Unlock()
	if n.Count() == 0 {
		return nil
	}
	l, err := st.cache.resolve(st.ctx, n)
	if err == nil {
		out.locations, out.repairGen = l.locations, l.repairGen
	}
	return err
}

// runs is run, and pins in the tail those chunks that can't settle for damage.
func (st *settling) runs(from, to uint64, n *merkle.Node, out *leaf) error {
	var old *oldError
	err := st.run(from, to, n, out)
	if !errors.As(err, &old) {
		st.met(from, to, err)
		return err
	}
	for chunk := uint64(st.old.ChunkSize) / SectorSize; from < to; from += chunk {
		end := min(from+chunk, to)
		err := st.run(from, end, n, out)
		if errors.As(err, &old) {
			err = st.pinByDamage(from, end, old.err)
		}
		if err != nil {
			st.met(from, end, err)
			return err
		}
	}
	return nil
}

// run settles the chunks of the sectors [from, to), all of which are touched.
func (st *settling) run(from, to uint64, n *merkle.Node, out *leaf) error {
	defer st.lookups.Hold().Release() // what is found is read: to be taken apart, or to be compared
	size := uint64(st.old.ChunkSize)
	chunk := size / SectorSize
	length := int(to-from) * SectorSize
	full := disk.RoundUp(int64(length), int64(size))
	if int64(cap(st.buf)) < full {
		st.buf = disk.AlignedBuffer(int(full))
	}
	buf := st.buf[:full]
	if err := st.read(buf, from, to); err != nil {
		return err
	}
	slot := from / chunk % merkle.FanOut
	if err := st.lookUp(buf, slot, n, out); err != nil {
		return err
	}
	for i, h := range st.hits {
		o := i * int(size)
		if err := st.chunk(h, buf[o:o+int(size)], o, length, slot+uint64(i), n, out); err != nil {
			return err
		}
	}
	return nil
}

// read fills buf with the sectors [from, to) as the frozen layer over the base has them, and zeroes
// the rest. Afterwards st.plan says where they lie.
func (st *settling) read(buf []byte, from, to uint64) error {
	off, length := int64(from)*SectorSize, int64(to-from)*SectorSize
	for {
		st.plan.Pieces = st.plan.Pieces[:0]
		st.v.mu.Lock()
		err := planLayers(st.view[:], st.v.base, &st.plan, from, to)
		st.v.mu.Unlock()
		if err == nil {
			break
		}
		if disk.Damaged(err) {
			return &oldError{err}
		}
		if err != ErrNotLoaded { //nolint:errorlint // planLayers returns it unwrapped
			return err
		}
		if err := st.cache.load(st.ctx, &st.v.mu, func() *base { return st.v.base }, off, length); err != nil {
			return err
		}
	}
	clear(buf[length:])
	for i := range st.plan.Pieces {
		c := &st.plan.Pieces[i]
		b := buf[c.BufOff : c.BufOff+c.Len]
		var err error
		switch {
		case c.Hole:
			clear(b)
		case c.settled:
			err = st.readOld(c, off+int64(c.BufOff), b)
		default:
			if err = disk.ReadAligned(c.seg.Data, b, c.FileOff); err != nil {
				err = readError(c, err)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readOld fills b with what is left of chunks that the layer changes in part: the bytes of the
// image at off. These bytes become part of chunks with new hashes, and so are verified against the
// old ones first: a new hash must not vouch for damaged bytes.
func (st *settling) readOld(c *Piece, off int64, b []byte) error {
	size := int64(st.old.ChunkSize)
	if st.oldChunk == nil {
		st.oldChunk = disk.AlignedBuffer(int(size))
	}
	at := off
	for len(b) > 0 {
		first := at / size * size
		from := c.FileOff + first - off
		if loc := segment.At(c.seg.ID, uint32(from/disk.BlockSize)); loc != st.oldLocation {
			st.oldLocation = 0
			k := verifier{leaves: st.cache, root: st.old, image: st.v.Name()}
			if err := k.chunks(c.seg, from, first, st.oldChunk); disk.Damaged(err) {
				return &oldError{err}
			} else if err != nil {
				return err
			}
			st.oldLocation = loc
			st.objects.Verified.Add(loc)
		}
		n := copy(b, st.oldChunk[at-first:])
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// chunk settles one chunk: data begins at byte o of the run that st.plan describes, and known says
// where the store has it.
func (st *settling) chunk(known hit, data []byte, o, length int, slot uint64, n *merkle.Node, out *leaf) error {
	h, loc := known.hash, known.at
	if h.IsZero() {
		n[slot], out.locations[slot] = merkle.Hash{}, 0
		return nil
	}
	if h == n[slot] && loc != 0 && loc == out.locations[slot] {
		return nil
	}
	st.restores = st.restores || h == n[slot]
	n[slot] = h
	if loc == 0 {
		loc = st.fresh[h] // an earlier chunk of the run has the same bytes
	}
	ok := loc != 0
	if !ok && o+len(data) <= length {
		loc, ok = st.adopt(h, o, len(data))
	}
	if !ok {
		var err error
		if loc, err = st.append(merkle.KindChunk, h, data); err != nil {
			return err
		}
	}
	out.locations[slot] = loc
	return nil
}

// find looks for an object that the store holds already.
func (st *settling) find(h *merkle.Hash, k merkle.Kind) (segment.Location, bool) {
	if loc, ok := st.fresh[*h]; ok {
		return loc, true
	}
	loc, ok := st.objects.Lookup(h, k)
	st.restores = st.restores || !ok && loc != 0 // lost where the index knew it: this settling stores it again
	return loc, ok
}

// adopt makes an object of a chunk that lies whole and aligned in an append segment.
func (st *settling) adopt(h merkle.Hash, o, size int) (segment.Location, bool) {
	for i := range st.plan.Pieces {
		c := &st.plan.Pieces[i]
		if o < c.BufOff || o+size > c.BufOff+c.Len {
			continue
		}
		at := c.FileOff + int64(o-c.BufOff)
		if c.Hole || c.settled || at%disk.BlockSize != 0 || c.seg.Damaged() {
			return 0, false
		}
		return st.record(c.seg, segment.Object{Hash: h, Block: uint32(at / disk.BlockSize), Length: uint32(size), Kind: merkle.KindChunk}), true
	}
	return 0, false
}
