package lockorder

// Lock is a line of the list. A goroutine may take a lock only while those that it holds have lower
// ranks.
type Lock interface {
	line() (rank int, name string)
}

// The lines of the list, in its order.
type (
	// Collecting is collector.running.
	Collecting struct{}
	// Checking is Store.checking.
	Checking struct{}
	// Accounting is accounting.mu.
	Accounting struct{}
	// Settling is volume.settleMu.
	Settling struct{}
	// PartialWrite is volume.rmw.
	PartialWrite struct{}
	// RefsLog is catalog.logMu.
	RefsLog struct{}
	// Ballast is ballast.mu.
	Ballast struct{}
	// Superblock is superblock.mu.
	Superblock struct{}
	// Freeze is volume.freezeMu.
	Freeze struct{}
	// Commit is volume.commitMu.
	Commit struct{}
	// JournalWindow is journal.File.growMu.
	JournalWindow struct{}
	// Catalog is catalog.mu.
	Catalog struct{}
	// View is View.mu.
	View struct{}
	// Volume is volume.mu.
	Volume struct{}
	// FreeSpace is spaceAccount.lookMu.
	FreeSpace struct{}
	// SegmentRecord is segment.File.listMu.
	SegmentRecord struct{}
	// JournalHeader is journal.File.headerMu.
	JournalHeader struct{}
	// IndexPut is storeIndex.putMu.
	IndexPut struct{}
	// Maintenance is upkeep.writeMu.
	Maintenance struct{}
	// History is timeline.saveMu.
	History struct{}
	// SegmentState is segment.File.mu.
	SegmentState struct{}
	// Memory is any lock under which no other is taken.
	Memory struct{}
)

func (Collecting) line() (int, string)    { return 0, "collector.running" }
func (Checking) line() (int, string)      { return 1, "Store.checking" }
func (Accounting) line() (int, string)    { return 2, "accounting.mu" }
func (Settling) line() (int, string)      { return 3, "volume.settleMu" }
func (PartialWrite) line() (int, string)  { return 4, "volume.rmw" }
func (RefsLog) line() (int, string)       { return 5, "catalog.logMu" }
func (Ballast) line() (int, string)       { return 6, "ballast.mu" }
func (Superblock) line() (int, string)    { return 7, "superblock.mu" }
func (Freeze) line() (int, string)        { return 8, "volume.freezeMu" }
func (Commit) line() (int, string)        { return 9, "volume.commitMu" }
func (JournalWindow) line() (int, string) { return 10, "journal.File.growMu" }
func (Catalog) line() (int, string)       { return 11, "catalog.mu" }
func (View) line() (int, string)          { return 12, "View.mu" }
func (Volume) line() (int, string)        { return 13, "volume.mu" }
func (FreeSpace) line() (int, string)     { return 14, "spaceAccount.lookMu" }
func (SegmentRecord) line() (int, string) { return 15, "segment.File.listMu" }
func (JournalHeader) line() (int, string) { return 16, "journal.File.headerMu" }
func (IndexPut) line() (int, string)      { return 17, "storeIndex.putMu" }
func (Maintenance) line() (int, string)   { return 18, "upkeep.writeMu" }
func (History) line() (int, string)       { return 19, "timeline.saveMu" }
func (SegmentState) line() (int, string)  { return 20, "segment.File.mu" }
func (Memory) line() (int, string)        { return 21, "a lock of memory alone" }
