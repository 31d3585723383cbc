package objstore

// The index keeps what was deleted from it, and a note of each deletion, until badger merges the
// tables that have them. While a store is small that is never: the newest tables are merged when
// there are five of them, of some MiB each. After many deletions an index may so be several times
// as long as its entries are. The reindexer makes a new one, at the price of entering what is left.

const (
	// indexEntrySize is about how many bytes an entry of the index occupies: the hash, the location, and
	// what badger has beside these in its log and in a table.
	indexEntrySize = 100
	// leastIndexWaste is what an index occupies at least, in bytes, beside twice what its entries need,
	// to be rebuilt.
	leastIndexWaste = 2 << 20
)

// indexWasteful reports whether an index of so many bytes is to be rebuilt for its entries, of which
// there are at most that many. So a rebuilding costs less than the deletions before it.
func indexWasteful(bytes, entries int64) bool {
	return bytes >= 2*entries*indexEntrySize+leastIndexWaste
}

// rebuildWastefulIndex has the index rebuilt in the background if it is worth that. While room is
// short nothing begins, as two indexes take more than one until the first of them goes.
func (s *Store) rebuildWastefulIndex() {
	if s.space.lowSpace.Load() || s.writeError() != nil || !indexWasteful(s.index.bytes(), s.listedObjects()) {
		return
	}
	s.indexer.rebuild.want(s.opts.Now())
}
