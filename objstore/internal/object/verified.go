package object

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/segment"
)

const (
	// verifiedBytes bounds the memory of Verified: at a bit a block, the locations of 512 GiB of
	// segments.
	verifiedBytes = 16 << 20
	// VerifiedFor is how long at most a location counts as verified.
	VerifiedFor = time.Hour
)

// Verified remembers locations whose bytes were read and found right within the last hour, for the
// most recently used segments. It is safe for concurrent use; the zero value is ready.
type Verified struct {
	mu    lockorder.Mutex[lockorder.Memory]
	since time.Time
	bits  *simplelru.LRU[uint32, []uint64] // by segment, a bit for each block
	bytes int64
}

// expire forgets everything if the oldest entry may be older than VerifiedFor.
// REQUIRES: mu is held.
func (v *Verified) expire() {
	if v.bits == nil || time.Since(v.since) > VerifiedFor {
		v.bits, _ = simplelru.NewLRU(1<<20, func(_ uint32, b []uint64) { v.bytes -= int64(len(b)) * 8 }) // fails for size 0 only
		v.bytes, v.since = 0, time.Now()
	}
}

// Has reports whether a location was verified.
func (v *Verified) Has(l segment.Location) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.expire()
	b, _ := v.bits.Get(l.Segment())
	word := int(l.Block() / 64)
	return word < len(b) && b[word]>>(l.Block()%64)&1 == 1
}

// Add notes that a location's bytes were read and are right.
func (v *Verified) Add(l segment.Location) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.expire()
	b, _ := v.bits.Get(l.Segment())
	if word := int(l.Block() / 64); word >= len(b) {
		grown := make([]uint64, disk.RoundUp(int64(word)+1, 64)) // 512 bytes: 16 MiB of the segment
		v.bytes += int64(len(grown)-copy(grown, b)) * 8
		b = grown
		v.bits.Add(l.Segment(), b)
	}
	b[l.Block()/64] |= 1 << (l.Block() % 64)
	for v.bytes > verifiedBytes && v.bits.Len() > 1 {
		v.bits.RemoveOldest()
	}
}

// Forget removes a location.
func (v *Verified) Forget(l segment.Location) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bits == nil {
		return
	}
	b, _ := v.bits.Peek(l.Segment())
	if word := int(l.Block() / 64); word < len(b) {
		b[word] &^= 1 << (l.Block() % 64)
	}
}
