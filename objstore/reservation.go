package objstore

import (
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// settleReservation is the room that settling a layer may need: a copy of each chunk that was
// written in part, and the tree nodes above. It is many times what small writes occupy themselves,
// so that they could fill a disk for good: with no room left to settle them, and no other way to
// get rid of them. Writes leave room for it. Guarded by the volume's lock.
type settleReservation struct {
	bytes  int64
	leaves map[int64]*leafCopies
	at     int64 // the leaf that was touched last
	last   *leafCopies
}

// leafCopies has a bit for each chunk of a leaf that may have to be copied.
type leafCopies [merkle.FanOut / 64]uint64

// nodesPerLeaf is the room in bytes for a leaf's new nodes: itself, and one above. Fewer change
// higher up.
const nodesPerLeaf = 2 * int64(merkle.NodeSize)

// add reserves for a write or a hole of the bytes [off, end), and returns by how many bytes the
// reservation has grown.
func (r *settleReservation) add(off, end, chunkSize int64, hole bool) int64 {
	was := r.bytes
	first, last := off/chunkSize, (end-1)/chunkSize
	r.touch(first)
	for i := (first/merkle.FanOut + 1) * merkle.FanOut; !hole && i < last; i += merkle.FanOut {
		r.touch(i)
	}
	r.touch(last)
	if !hole && off%disk.BlockSize != 0 { // nothing of it lies where it could be adopted
		for i := first; i <= last; i++ {
			r.copies(i, chunkSize)
		}
		return r.bytes - was
	}
	if off%chunkSize != 0 {
		r.copies(first, chunkSize)
	}
	if end%chunkSize != 0 {
		r.copies(last, chunkSize)
	}
	return r.bytes - was
}

// touch returns the leaf of a chunk.
func (r *settleReservation) touch(chunk int64) *leafCopies {
	i := chunk / merkle.FanOut
	if r.last != nil && r.at == i {
		return r.last
	}
	if r.leaves == nil {
		r.leaves = map[int64]*leafCopies{}
	}
	l := r.leaves[i]
	if l == nil {
		l = new(leafCopies)
		r.leaves[i] = l
		r.bytes += nodesPerLeaf
	}
	r.at, r.last = i, l
	return l
}

func (r *settleReservation) copies(chunk, chunkSize int64) {
	word, bit := &r.touch(chunk)[chunk%merkle.FanOut/64], uint64(1)<<(chunk%64)
	if *word&bit == 0 {
		*word |= bit
		r.bytes += chunkSize
	}
}

// freeze forgets all but the sum.
func (r *settleReservation) freeze() { r.leaves, r.last = nil, nil }

// holeReservation bounds what a hole reserves: it has two edges.
func holeReservation(chunkSize int64) int64 { return 2 * (nodesPerLeaf + chunkSize) }

// largestWrite bounds what a write may take, in bytes: its slot and its reservation.
func largestWrite(off int64, length, chunkSize int) int64 {
	return disk.RoundUp(int64(length), disk.BlockSize) + largestReservation(off, off+int64(length), int64(chunkSize))
}

// largestReservation bounds what a write of the bytes [off, end) reserves.
func largestReservation(off, end, chunkSize int64) int64 {
	first, last := off/chunkSize, (end-1)/chunkSize
	nodes := (last/merkle.FanOut - first/merkle.FanOut + 1) * nodesPerLeaf
	if off%disk.BlockSize != 0 {
		return nodes + (last-first+1)*chunkSize
	}
	return nodes + min(last-first+1, 2)*chunkSize
}
