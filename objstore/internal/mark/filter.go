package mark

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"varve/objstore/internal/merkle"
)

const (
	// blockWords is the length of a block in words: a cache line, in which all probes of a hash lie.
	blockWords = 8
	blockBytes = blockWords * 8

	// probes is how many bits of a block a hash sets. With 8 bits a key, 6 are the best number.
	probes    = 6
	probeBits = 9 // that number the bits of a block
)

// Filter is a set of hashes that errs on one side: Has returns true for every hash that was added,
// and for some others. It is safe for concurrent use, without locks: an Add that returned before a
// Has began is seen by it.
//
// It is a blocked Bloom filter: a hash selects a block of 512 bits, and six bits in that.
type Filter struct {
	words  []uint64 // whole blocks; accessed atomically
	blocks uint64
	seed   [4]uint64
	part   uint32
	parts  uint32 // 1: all hashes are of the filter's part
}

// Seed is what the filters of one cycle have in common: which part of all hashes a hash is of, and
// which bits it selects.
type Seed [4]uint64

// NewSeed draws a seed.
func NewSeed() Seed { return Seed{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()} }

// Passes returns how many passes are needed for that many objects, if a filter may take at most
// limit bytes.
func Passes(objects, limit int64) int {
	limit = max(limit, blockBytes)
	return int(max((objects+limit-1)/limit, 1))
}

// NewFilter returns an empty filter for one of several parts of all hashes, of which there are
// objects in all; parts are counted from 0. It takes a byte for each hash of its part.
func NewFilter(seed Seed, objects int64, part, parts int) *Filter {
	blocks := max((objects/int64(parts)+blockBytes-1)/blockBytes, 1)
	return &Filter{
		words: make([]uint64, blocks*blockWords), blocks: uint64(blocks), seed: seed, part: uint32(part), parts: uint32(parts),
	}
}

// Bytes returns the memory that the filter takes.
func (f *Filter) Bytes() int64 { return int64(len(f.words)) * 8 }

// spread returns two numbers that depend on all of a hash and on the seed.
func (f *Filter) spread(h *merkle.Hash) (block, probe uint64) {
	le := binary.LittleEndian
	hi, lo := bits.Mul64(le.Uint64(h[0:])^f.seed[0], le.Uint64(h[8:])^f.seed[1]|1)
	block = hi ^ lo
	hi, lo = bits.Mul64(le.Uint64(h[16:])^f.seed[2], le.Uint64(h[24:])^f.seed[3]|1)
	return block ^ bits.RotateLeft64(hi^lo, 32), hi ^ lo ^ bits.RotateLeft64(block, 17)
}

// choose returns the first word of a hash's block and its probes. mine is false for a hash of
// another part.
func (f *Filter) choose(h *merkle.Hash) (first, probe uint64, mine bool) {
	block, probe := f.spread(h)
	if f.parts > 1 && uint32(block&0xffffffff*uint64(f.parts)>>32) != f.part {
		return 0, 0, false
	}
	first, _ = bits.Mul64(block, f.blocks)
	return first * blockWords, probe, true
}

// Add adds a hash.
func (f *Filter) Add(h *merkle.Hash) {
	first, probe, mine := f.choose(h)
	if !mine {
		return
	}
	for range probes {
		atomic.OrUint64(&f.words[first+probe>>6%blockWords], 1<<(probe%64))
		probe >>= probeBits
	}
}

// Has reports whether a hash may have been added, or is of another part.
func (f *Filter) Has(h *merkle.Hash) bool {
	first, probe, mine := f.choose(h)
	if !mine {
		return true
	}
	for range probes {
		if atomic.LoadUint64(&f.words[first+probe>>6%blockWords])>>(probe%64)&1 == 0 {
			return false
		}
		probe >>= probeBits
	}
	return true
}
