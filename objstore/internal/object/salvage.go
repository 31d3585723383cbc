package object

import (
	"encoding/binary"
	"sync"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// Where a segment's object list is damaged, its objects are still there, each at the beginning of a
// block, and a hash tells each of them. What is searched for and in no other segment is searched
// for in these: everything that could be an object is hashed, once, and remembered by the first 8
// bytes of its hash.

// scan is what the content of a damaged segment was found to be.
type scan struct {
	once   sync.Once
	blocks map[uint64]uint32 // the beginning of a hash, and the block that may have it
}

// Salvage finds an object in a damaged segment, and returns its location and length. The first call
// for a segment reads all of it.
func (r *Reader) Salvage(g *segment.File, h *merkle.Hash, k merkle.Kind) (segment.Location, int, bool) {
	defer r.pins.Hold().Release()
	r.scansMu.Lock()
	s := r.scans[g.ID]
	if s == nil {
		s = new(scan)
		r.scans[g.ID] = s
	}
	r.scansMu.Unlock()
	s.once.Do(func() { s.blocks = r.scanContent(g) })
	block, ok := s.blocks[binary.BigEndian.Uint64(h[:])]
	if !ok {
		return 0, 0, false
	}
	l := segment.At(g.ID, block)
	if r.Quarantine.Quarantined(l) {
		return 0, 0, false
	}
	n, err := r.validateContent(g, l, h, k)
	return l, n, err == nil
}

// scanContent hashes what every block could be the beginning of.
func (r *Reader) scanContent(g *segment.File) map[uint64]uint32 {
	r.log.Warn("a segment's record is damaged; its objects are looked for by their content", "segment", segment.Name(g.ID))
	blocks := map[uint64]uint32{}
	r.eachBlock(g, func(block uint32, b []byte) bool {
		note := func(h merkle.Hash) { blocks[binary.BigEndian.Uint64(h[:])] = block }
		if len(b) >= r.chunkSize {
			note(merkle.Sum(merkle.KindChunk, b[:r.chunkSize]))
		}
		if merkle.MayBeRoot(b) {
			note(merkle.Sum(merkle.KindRoot, b[:merkle.RootSize]))
		}
		for level := range int(r.depth.Load()) {
			asNodes(b, level+1, func(h merkle.Hash) bool { note(h); return true })
		}
		return true
	})
	return blocks
}

// validateContent returns how many bytes an object has, if it lies at a location, by the bytes
// themselves.
func (r *Reader) validateContent(g *segment.File, l segment.Location, h *merkle.Hash, k merkle.Kind) (int, error) {
	step, largest := merkle.HashSize, merkle.NodeSize
	switch k {
	case merkle.KindChunk:
		step, largest = r.chunkSize, r.chunkSize
	case merkle.KindRoot:
		step, largest = merkle.RootSize, merkle.RootSize
	default: // a tree node, of any number of hashes
	}
	b := make([]byte, largest)
	n, _ := g.Data.ReadAt(b, l.Offset())
	for size := step; size <= n; size += step {
		if merkle.Sum(k, b[:size]) == *h {
			return size, nil
		}
	}
	return 0, errNotListed
}

// eachBlock calls f with what begins at each block, unless all that an object could have there are
// zeroes, until f returns false; then it returns false. What cannot be read is left out.
func (r *Reader) eachBlock(g *segment.File, f func(block uint32, b []byte) bool) bool {
	const step = 1 << 20
	largest := max(r.chunkSize, merkle.NodeSize)
	size, err := g.Data.Size()
	if err != nil {
		return true
	}
	buf := make([]byte, step+disk.MaxChunkSize)
	for off := int64(disk.BlockSize); off < size; off += step {
		n, _ := g.Data.ReadAt(buf, off) // an error, or a file that ends: n bytes are there
		zeroes := 0                     // the end of those that begin at at
		for at := 0; at < min(n, step); at += disk.BlockSize {
			for zeroes = max(zeroes, at); zeroes < n && buf[zeroes] == 0; {
				zeroes++
			}
			if zeroes < min(at+largest, n) && !f(uint32((off+int64(at))/disk.BlockSize), buf[at:n]) {
				return false
			}
		}
	}
	return true
}

// eachNode calls f with the hash of everything in the segment that could be a tree node of that
// level, until f returns false; then it returns false.
func (r *Reader) eachNode(g *segment.File, level int, f func(merkle.Hash) bool) bool {
	return r.eachBlock(g, func(_ uint32, b []byte) bool { return asNodes(b, level, f) })
}

// asNodes takes the beginning of b for a tree node. A node does not end in a zero hash, and nothing
// follows it in its last block: its length is that of its one or two blocks, less the zeroes at the
// end.
func asNodes(b []byte, level int, f func(merkle.Hash) bool) bool {
	last := 0
	for _, n := range []int{disk.BlockSize, merkle.NodeSize} {
		n = min(n, len(b)/merkle.HashSize*merkle.HashSize)
		for n > 0 && merkle.Hash(b[n-merkle.HashSize:n]).IsZero() {
			n -= merkle.HashSize
		}
		if n > last && !f(merkle.Sum(merkle.NodeKind(level), b[:n])) {
			return false
		}
		last = n
	}
	return true
}
