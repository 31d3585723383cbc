package main

import (
	"encoding/binary"
	"path/filepath"
	"sync/atomic"

	"varve/objstore"
	"varve/objstore/index"
)

// knownIndex is a store's index behind a filter of the hashes that it was given: nearly all look-ups
// of a run that fills a store are of chunks that the store does not have, and take a quarter of
// the time. What the index has in the end is the same.
type knownIndex struct {
	index.Index
	bits []atomic.Uint64
}

const (
	knownBytes = 256 << 20 // of the filter: 31 bits for each chunk of a TiB
	knownTable = 64 << 20  // bytes of a table of the index in memory
)

// openKnownIndex opens the index of a new store.
func openKnownIndex(store string) (*knownIndex, error) {
	ix, err := index.Open(filepath.Join(store, objstore.IndexDir), index.Options{MemTable: knownTable})
	if err != nil {
		return nil, err
	}
	return &knownIndex{Index: ix, bits: make([]atomic.Uint64, knownBytes/8)}, nil
}

// probe calls see with four words of the filter and a bit of each, until it returns false.
func (k *knownIndex) probe(h *[32]byte, see func(word *atomic.Uint64, bit uint64) bool) {
	for i := 0; i < len(h); i += 8 {
		n := binary.LittleEndian.Uint64(h[i:]) % (uint64(len(k.bits)) * 64)
		if !see(&k.bits[n/64], 1<<(n%64)) {
			return
		}
	}
}

// Get implements index.Index.
func (k *knownIndex) Get(h *[32]byte) (index.Location, bool) {
	known := true
	k.probe(h, func(word *atomic.Uint64, bit uint64) bool {
		known = word.Load()&bit != 0
		return known
	})
	if !known {
		return index.Location{}, false
	}
	return k.Index.Get(h)
}

// Put implements index.Index.
func (k *knownIndex) Put(entries []index.Entry) error {
	for i := range entries {
		k.probe(&entries[i].Hash, func(word *atomic.Uint64, bit uint64) bool {
			word.Or(bit)
			return true
		})
	}
	return k.Index.Put(entries)
}
