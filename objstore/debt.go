package objstore

import (
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
)

// debt is what settling a layer may have to write: a copy of each chunk that was written in part, and the tree
// nodes above. It is many times what small writes occupy themselves, so that they could fill a disk for good:
// with no room left to settle them, and no other way to get rid of them. Writes leave room for it.
// Guarded by the volume's lock.
type debt struct {
	bytes  int64
	leaves map[int64]*leafDebt
	at     int64 // the leaf that was touched last
	last   *leafDebt
}

// leafDebt has a bit for each chunk of a leaf that may have to be copied.
type leafDebt [merkle.FanOut / 64]uint64

// nodesPerLeaf is the room in bytes for a leaf's new nodes: itself, and one above. Fewer change higher up.
const nodesPerLeaf = 2 * int64(merkle.NodeSize)

// owe notes a write or a hole of the bytes [off, end), and gives what the debt has grown by.
func (d *debt) owe(off, end, chunkSize int64, hole bool) int64 {
	was := d.bytes
	first, last := off/chunkSize, (end-1)/chunkSize
	d.touch(first)
	for i := (first/merkle.FanOut + 1) * merkle.FanOut; !hole && i < last; i += merkle.FanOut {
		d.touch(i)
	}
	d.touch(last)
	if !hole && off%disk.BlockSize != 0 { // nothing of it lies where it could be adopted
		for i := first; i <= last; i++ {
			d.copies(i, chunkSize)
		}
		return d.bytes - was
	}
	if off%chunkSize != 0 {
		d.copies(first, chunkSize)
	}
	if end%chunkSize != 0 {
		d.copies(last, chunkSize)
	}
	return d.bytes - was
}

// touch gives the leaf of a chunk.
func (d *debt) touch(chunk int64) *leafDebt {
	i := chunk / merkle.FanOut
	if d.last != nil && d.at == i {
		return d.last
	}
	if d.leaves == nil {
		d.leaves = map[int64]*leafDebt{}
	}
	l := d.leaves[i]
	if l == nil {
		l = new(leafDebt)
		d.leaves[i] = l
		d.bytes += nodesPerLeaf
	}
	d.at, d.last = i, l
	return l
}

func (d *debt) copies(chunk, chunkSize int64) {
	word, bit := &d.touch(chunk)[chunk%merkle.FanOut/64], uint64(1)<<(chunk%64)
	if *word&bit == 0 {
		*word |= bit
		d.bytes += chunkSize
	}
}

// freeze forgets all but the sum.
func (d *debt) freeze() { d.leaves, d.last = nil, nil }

// holeDebt bounds what a hole can owe: it has two edges.
func holeDebt(chunkSize int64) int64 { return 2 * (nodesPerLeaf + chunkSize) }

// largestWrite bounds what a write may take: its slot, and what it can owe.
func largestWrite(off int64, length, chunkSize int) int64 {
	return disk.RoundUp(int64(length), disk.BlockSize) + largestDebt(off, off+int64(length), int64(chunkSize))
}

// largestDebt bounds what a write of the bytes [off, end) can owe.
func largestDebt(off, end, chunkSize int64) int64 {
	first, last := off/chunkSize, (end-1)/chunkSize
	nodes := (last/merkle.FanOut - first/merkle.FanOut + 1) * nodesPerLeaf
	if off%disk.BlockSize != 0 {
		return nodes + (last-first+1)*chunkSize
	}
	return nodes + min(last-first+1, 2)*chunkSize
}
