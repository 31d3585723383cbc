package objstore

import (
	"encoding/binary"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// Where a segment's record is damaged, its objects are still there, each at the beginning of a block, and a hash
// tells each of them. What is looked for and in no other segment is looked for in these: all that could be an object
// is hashed, once, and remembered by the first 8 bytes of its hash.

// salvage finds an object in a damaged segment.
func (s *Store) salvage(g *segment.File, h *merkle.Hash, k merkle.Kind) (segment.Location, int, bool) {
	g.Scanned.Do(func() { s.scanContent(g) })
	block, ok := g.ByContent[binary.BigEndian.Uint64(h[:])]
	if !ok {
		return 0, 0, false
	}
	pl := segment.At(g.ID, block)
	if s.isBad(pl) {
		return 0, 0, false
	}
	n, err := s.checkContent(g, pl, h, k)
	return pl, n, err == nil
}

// scanContent hashes what every block could be the beginning of.
func (s *Store) scanContent(g *segment.File) {
	s.log.Warn("a segment's record is damaged; its objects are looked for by their content", "segment", segment.Name(g.ID))
	g.ByContent = map[uint64]uint32{}
	s.eachBlock(g, func(block uint32, b []byte) bool {
		note := func(h merkle.Hash) { g.ByContent[binary.BigEndian.Uint64(h[:])] = block }
		if len(b) >= s.sb.chunkSize {
			note(merkle.Sum(merkle.KindChunk, b[:s.sb.chunkSize]))
		}
		if merkle.MayBeRoot(b) {
			note(merkle.Sum(merkle.KindRoot, b[:merkle.RootSize]))
		}
		for level := range int(s.depth.Load()) {
			s.asNodes(b, level+1, func(h merkle.Hash) bool { note(h); return true })
		}
		return true
	})
}

// eachBlock calls f with what begins at each block, unless all that an object could have there are zeroes, until f says
// no; then it gives false. What can't be read is left out.
func (s *Store) eachBlock(g *segment.File, f func(block uint32, b []byte) bool) bool {
	const step = 1 << 20
	largest := max(s.sb.chunkSize, merkle.NodeSize)
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

// eachNode calls f with the hash of everything in the segment that could be a tree node of that level, until f says
// no; then it gives false.
func (s *Store) eachNode(g *segment.File, level int, f func(merkle.Hash) bool) bool {
	return s.eachBlock(g, func(_ uint32, b []byte) bool { return s.asNodes(b, level, f) })
}

// asNodes takes the beginning of b for a tree node. A node does not end in a zero hash, and nothing follows it in its
// last block: its length is that of its one or two blocks, less the zeroes at the end.
func (s *Store) asNodes(b []byte, level int, f func(merkle.Hash) bool) bool {
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
