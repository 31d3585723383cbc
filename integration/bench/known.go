package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"sync"

	"varve/objstore"
	"varve/objstore/index"
)

// knownIndex is the index of a store that is being filled, in memory, some 80 bytes an entry. When it
// is closed, it writes all entries in order to the store's own index: putting them there as they come,
// in no order, takes most of the time of filling a large store. What the index has in the end is the
// same.
type knownIndex struct {
	dir string

	mu      sync.RWMutex
	buckets [256]knownBucket // by the first byte of the hash
	done    map[uint32]bool
}

// knownBucket is a part of the entries. Of two hashes that begin with the same 64 bits it keeps the
// later one, as an index may.
type knownBucket struct {
	entries []index.Entry
	at      map[uint64]uint32 // where in entries a hash is, by its beginning
}

// knownTable is the size in bytes of a table of the store's own index in memory.
const knownTable = 64 << 20

// newKnownIndex returns the index of a new store.
func newKnownIndex(store string) *knownIndex {
	k := &knownIndex{dir: filepath.Join(store, objstore.IndexDir), done: map[uint32]bool{}}
	for i := range k.buckets {
		k.buckets[i].at = map[uint64]uint32{}
	}
	return k
}

// Get implements index.Index.
func (k *knownIndex) Get(h *[32]byte) (index.Location, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	b := &k.buckets[h[0]]
	if i, ok := b.at[binary.LittleEndian.Uint64(h[:])]; ok && b.entries[i].Hash == *h {
		return b.entries[i].Location, true
	}
	return index.Location{}, false
}

// Put implements index.Index.
func (k *knownIndex) Put(entries []index.Entry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range entries {
		b, key := &k.buckets[e.Hash[0]], binary.LittleEndian.Uint64(e.Hash[:])
		if i, ok := b.at[key]; ok {
			b.entries[i] = e
			continue
		}
		b.at[key] = uint32(len(b.entries))
		b.entries = append(b.entries, e)
	}
	return nil
}

// Delete implements index.Index. Nothing is collected while a store is filled.
func (k *knownIndex) Delete([][32]byte) error { return errors.ErrUnsupported }

// Sync implements index.Index. The entries are durable when the index is closed.
func (k *knownIndex) Sync() error { return nil }

// Done implements index.Index.
func (k *knownIndex) Done(segment uint32) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.done[segment]
}

// MarkDone implements index.Index.
func (k *knownIndex) MarkDone(segments ...uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range segments {
		k.done[s] = true
	}
	return nil
}

// Forget implements index.Index.
func (k *knownIndex) Forget(segment uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.done, segment)
	return nil
}

// Bytes implements index.Index. Nothing is on the disk yet.
func (k *knownIndex) Bytes() int64 { return 0 }

// Close implements index.Index, and writes the store's own index.
func (k *knownIndex) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var done []uint32
	for s := range k.done {
		done = append(done, s)
	}
	return index.Load(k.dir, index.Options{MemTable: knownTable}, k.inOrder, done)
}

// inOrder yields all entries in order of their hashes.
// REQUIRES: mu is held.
func (k *knownIndex) inOrder(yield func(index.Entry) bool) {
	for i := range k.buckets {
		b := &k.buckets[i]
		b.at = nil // the places change
		slices.SortFunc(b.entries, func(x, y index.Entry) int { return bytes.Compare(x.Hash[:], y.Hash[:]) })
		for _, e := range b.entries {
			if !yield(e) {
				return
			}
		}
	}
}
