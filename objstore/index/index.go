// Package index maps the hash of an object to its last known location. It is a hint, kept in
// badger: the store confirms every answer by the segment's own list of objects, and the index may
// be deleted at any time.
package index

// Location is where an object lies: a segment ID and an offset in blocks of 4096 bytes.
type Location struct {
	Segment uint32
	Block   uint32
}

// Entry is one object and its location.
type Entry struct {
	Hash     [32]byte
	Location Location
}

// Index is an index as the store uses it. Safe for concurrent use.
type Index interface {
	// Get looks a hash up. If the index fails, Get returns false: the caller works without it.
	Get(hash *[32]byte) (Location, bool)
	// Put adds or replaces entries. They need not be durable before Sync.
	Put(entries []Entry) error
	// Delete removes entries. One that comes back after a crash is no worse than a wrong answer.
	Delete(hashes [][32]byte) error
	// Sync makes all earlier entries durable.
	Sync() error
	// Done reports whether the segment was marked: its entries had been put and synced.
	Done(segment uint32) bool
	// MarkDone notes that all entries of the segments are in and synced; it syncs first.
	MarkDone(segments ...uint32) error
	// Forget drops the mark of a retired segment.
	Forget(segment uint32) error
	// Bytes returns the index's size on disk.
	Bytes() int64
	Close() error
}
