package segment

import (
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/merkle"
)

const (
	// sketchBytes bounds the memory for sketches: those of 350 GiB of 16 KiB chunks.
	sketchBytes = 64 << 20

	sketchBits   = 24 // an object
	sketchProbes = 10
)

// Sketches tell which footers cannot have an object, without reading them again. After a footer was
// read once, Sketches keep a Bloom filter of it, 24 bits per object. About one look-up in 50,000
// reads a footer in vain, and one in 200 of those for the 256 chunks of a leaf. Sketches are for
// segments that the index lacks: without them each look-up would read all footers, 48 bytes per
// object, 3 GiB per terabyte. Footers beyond the bound are read again. The zero value is ready.
type Sketches struct {
	mu    lockorder.Mutex[lockorder.Memory]
	of    map[uint32]sketch
	bytes int
}

// sketch is a Bloom filter of hashes.
type sketch []uint64

// probes calls f with the word and the bit of each probe, until f returns false.
func (k sketch) probes(h *merkle.Hash, f func(word int, bit uint64) bool) bool {
	bits := uint64(len(k)) * 64
	at, step := le.Uint64(h[:]), le.Uint64(h[8:])|1
	for range sketchProbes {
		if b := at % bits; !f(int(b/64), 1<<(b%64)) {
			return false
		}
		at += step
	}
	return true
}

func makeSketch(entries Entries) sketch {
	k := make(sketch, entries.Len()*sketchBits/64+1)
	for i := range entries.Len() {
		h := entries.Hash(i)
		k.probes(&h, func(word int, bit uint64) bool { k[word] |= bit; return true })
	}
	return k
}

// MayHave reports whether the segment may have one of the objects. It returns false only if the
// footer was read and has none of them.
func (s *Sketches) MayHave(id uint32, hashes map[merkle.Hash]bool) bool {
	s.mu.Lock()
	k := s.of[id]
	s.mu.Unlock()
	if k == nil {
		return true
	}
	for h := range hashes {
		if k.probes(&h, func(word int, bit uint64) bool { return k[word]&bit != 0 }) {
			return true
		}
	}
	return false
}

// Add keeps the sketch of a sealed segment's footer, if there is memory for it.
func (s *Sketches) Add(id uint32, entries Entries) {
	s.mu.Lock()
	_, known := s.of[id]
	full := s.bytes >= sketchBytes
	s.mu.Unlock()
	if known || full {
		return
	}
	k := makeSketch(entries)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.of[id]; known {
		return
	}
	if s.of == nil {
		s.of = map[uint32]sketch{}
	}
	s.of[id] = k
	s.bytes += len(k) * 8
}

// Drop forgets a segment's sketch.
func (s *Sketches) Drop(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= len(s.of[id]) * 8
	delete(s.of, id)
}

// Bytes returns the memory that the sketches take.
func (s *Sketches) Bytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}
