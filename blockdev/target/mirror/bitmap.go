package mirror

import (
	"encoding/binary"
	"math/bits"

	"varve/blockdev/target/superblock"
)

// The intent bitmap has a bit for each region of the disk. A bit that is set says that a write of
// the region may be under way, or that a leg which is out lacks one: the legs may differ there. It
// is durable on all legs that are written before the write begins.
//
// A page of the bitmap, little endian:
//
//	0       8        12         16     24                      4096
//	+-------+--------+----------+------+------------------------+
//	| magic | number | checksum |  0   | bits of 32576 regions  |
//	+-------+--------+----------+------+------------------------+
//
//	number    of the page, from 0
//	checksum  CRC-32C of all 4096 bytes with a checksum of 0
//
// Pages are written in place. One that is torn or damaged counts as all ones, which costs a copy of
// its regions and nothing else.
const (
	pageSize    = stateSize
	pageMagic   = "VarveMiB"
	numberAt    = 8
	bitsAt      = 24
	pageRegions = (pageSize - bitsAt) * 8
	maxPages    = (DataOffset - bitmapOffset) / pageSize
	maxRegions  = maxPages * pageRegions
)

// bitmap is a set of regions.
type bitmap struct {
	words []uint64
	n     int // regions
	count int // of the set
}

func newBitmap(n int) *bitmap { return &bitmap{words: make([]uint64, (n+63)/64), n: n} }

func (b *bitmap) has(i int) bool { return b.words[i/64]&(1<<(i%64)) != 0 }

func (b *bitmap) set(i int) {
	if !b.has(i) {
		b.words[i/64] |= 1 << (i % 64)
		b.count++
	}
}

func (b *bitmap) clear(i int) {
	if b.has(i) {
		b.words[i/64] &^= 1 << (i % 64)
		b.count--
	}
}

func (b *bitmap) setAll() {
	for i := range b.n {
		b.set(i)
	}
}

func (b *bitmap) clearAll() {
	clear(b.words)
	b.count = 0
}

// next returns the first region of the set from i on, or -1.
func (b *bitmap) next(i int) int {
	for w := i / 64; w < len(b.words); w++ {
		word := b.words[w]
		if w == i/64 {
			word &= ^uint64(0) << (i % 64)
		}
		if word != 0 {
			return w*64 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

func (b *bitmap) clone() *bitmap {
	c := *b
	c.words = append([]uint64(nil), b.words...)
	return &c
}

// pages is how many pages hold the set.
func (b *bitmap) pages() int { return (b.n + pageRegions - 1) / pageRegions }

// pageWords is how many words of a set a page has.
const pageWords = pageRegions / 64

// encodePage fills in a page.
func (b *bitmap) encodePage(p []byte, page int) {
	clear(p)
	le := binary.LittleEndian
	copy(p, pageMagic)
	le.PutUint32(p[numberAt:], uint32(page))
	for i, w := range b.words[page*pageWords : min((page+1)*pageWords, len(b.words))] {
		le.PutUint64(p[bitsAt+8*i:], w)
	}
	superblock.Seal(p)
}

// decodePage adds the regions of a page: all that the page could hold, if it is damaged.
func (b *bitmap) decodePage(p []byte, page int) (whole bool) {
	le := binary.LittleEndian
	whole = string(p[:numberAt]) == pageMagic && le.Uint32(p[numberAt:]) == uint32(page) && superblock.Whole(p)
	for i := page * pageRegions; i < min((page+1)*pageRegions, b.n); i++ {
		at := i - page*pageRegions
		if !whole || p[bitsAt+at/8]&(1<<(at%8)) != 0 {
			b.set(i)
		}
	}
	return whole
}

func pageOffset(page int) int64 { return bitmapOffset + int64(page)*pageSize }
