package object

import (
	"context"
	"encoding/binary"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// The objects of a segment whose list is damaged are still there, each at the beginning of a block,
// and can be identified by their hashes. An object that no other segment has is sought in damaged
// ones: everything that could be an object is hashed, once, and remembered by the first 8 bytes of
// its hash.

// scan is the result of scanning a damaged segment. The caller that made it fills it in, and closes
// done; the others wait.
type scan struct {
	done   chan struct{}
	blocks map[uint64]uint32 // the beginning of a hash, and the block that may have it
	err    error             // why that caller gave up
}

// Salvage finds an object in a damaged segment. The first call for a segment reads all of it. The
// error is that ctx has ended.
func (r *Reader) Salvage(ctx context.Context, g *segment.File, h *merkle.Hash, k merkle.Kind) (at Located, ok bool, err error) {
	defer r.pins.Hold().Release()
	blocks, err := r.content(ctx, g)
	if err != nil {
		return Located{}, false, err
	}
	block, ok := blocks[binary.BigEndian.Uint64(h[:])]
	l := segment.At(g.ID, block)
	if !ok || r.Quarantine.Quarantined(l) {
		return Located{}, false, nil
	}
	n, err := r.validateContent(g, l, h, k)
	return Located{l, n}, err == nil, nil
}

// content returns the scan of a segment, which is made once.
func (r *Reader) content(ctx context.Context, g *segment.File) (map[uint64]uint32, error) {
	for {
		r.scansMu.Lock()
		s := r.scans[g.ID]
		first := s == nil
		if first {
			s = &scan{done: make(chan struct{})}
			r.scans[g.ID] = s
		}
		r.scansMu.Unlock()
		if first {
			r.fill(ctx, g, s)
			return s.blocks, s.err
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if s.err == nil {
			return s.blocks, nil
		}
	}
}

// fill fills in a scan that the caller has made. If ctx ends first, the next caller begins again.
func (r *Reader) fill(ctx context.Context, g *segment.File, s *scan) {
	defer close(s.done)
	if s.blocks, s.err = r.scanContent(ctx, g); s.err != nil {
		r.scansMu.Lock()
		defer r.scansMu.Unlock()
		delete(r.scans, g.ID)
	}
}

// scanContent hashes every object that could begin at a block.
func (r *Reader) scanContent(ctx context.Context, g *segment.File) (map[uint64]uint32, error) {
	r.log.Warn("a segment's record is damaged; its objects are looked for by their content", "segment", segment.Name(g.ID))
	blocks := map[uint64]uint32{}
	_, err := r.eachBlock(ctx, g, func(block uint32, b []byte) bool {
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
	return blocks, err
}

// validateContent returns the length in bytes of an object at a location, judging by the bytes
// there.
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

// eachBlock calls f with the bytes from each block on, as many as an object can have, until f
// returns false, which it reports, or ctx ends. It leaves out blocks from which on all these bytes
// are zeroes, or unreadable.
func (r *Reader) eachBlock(ctx context.Context, g *segment.File, f func(block uint32, b []byte) bool) (more bool, err error) {
	const step = 1 << 20
	largest := max(r.chunkSize, merkle.NodeSize)
	size, err := g.Data.Size()
	if err != nil {
		return true, nil
	}
	buf := make([]byte, step+disk.MaxChunkSize)
	for off := int64(disk.BlockSize); off < size; off += step {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, _ := g.Data.ReadAt(buf, off) // an error, or a file that ends: n bytes are there
		zeroes := 0                     // the end of those that begin at at
		for at := 0; at < min(n, step); at += disk.BlockSize {
			for zeroes = max(zeroes, at); zeroes < n && buf[zeroes] == 0; {
				zeroes++
			}
			if zeroes < min(at+largest, n) && !f(uint32((off+int64(at))/disk.BlockSize), buf[at:n]) {
				return false, nil
			}
		}
	}
	return true, nil
}

// eachNode calls f with the hash of everything in the segment that could be a tree node of that
// level, and ends as eachBlock.
func (r *Reader) eachNode(ctx context.Context, g *segment.File, level int, f func(merkle.Hash) bool) (more bool, err error) {
	return r.eachBlock(ctx, g, func(_ uint32, b []byte) bool { return asNodes(b, level, f) })
}

// asNodes interprets the beginning of b as a tree node. A node does not end in a zero hash, and
// nothing follows it in its last block: its length is one or two blocks, less the zeroes at the
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
