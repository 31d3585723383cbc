// Package index maps the hash of an object to the location where it was last seen. It is a hint, kept in
// badger: every answer is checked against the segment's own record, and it may be deleted at any time.
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

// Index is what the store needs of one. Safe for concurrent use.
type Index interface {
	// Get looks a hash up. A fault of the index is an answer of false: the caller can do without.
	Get(hash *[32]byte) (Location, bool)
	// Put adds or replaces entries. They need not be durable before Sync.
	Put(entries []Entry) error
	// Sync makes everything put before durable.
	Sync() error
	// Done reports whether the segment was marked: its entries had been put and synced.
	Done(segment uint32) bool
	// MarkDone notes that all entries of the segments are in and synced; it syncs first.
	MarkDone(segments ...uint32) error
	// Forget drops the mark of a retired segment.
	Forget(segment uint32) error
	// Bytes says what the index occupies on disk.
	Bytes() int64
	Close() error
}
