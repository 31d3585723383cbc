package lockorder

// Lock is a line of the list. A goroutine may take a lock only while those that it holds have lower ranks.
type Lock interface {
	line() (rank int, name string)
}

// Checking and the types after it are the lines of the list, in its order.
type (
	Checking      struct{}
	Naming        struct{}
	Settling      struct{}
	PartialWrite  struct{}
	RefsLog       struct{}
	Freeze        struct{}
	Commit        struct{}
	JournalWindow struct{}
	Catalog       struct{}
	View          struct{}
	Volume        struct{}
	FreeSpace     struct{}
	SegmentRecord struct{}
	JournalHeader struct{}
	IndexPut      struct{}
	SegmentState  struct{}
	Memory        struct{} // any of those under which nobody takes another
)

func (Checking) line() (int, string)      { return 1, "Store.checking" }
func (Naming) line() (int, string)        { return 2, "Store.naming" }
func (Settling) line() (int, string)      { return 3, "volume.settleMu" }
func (PartialWrite) line() (int, string)  { return 4, "volume.rmw" }
func (RefsLog) line() (int, string)       { return 5, "catalog.logMu" }
func (Freeze) line() (int, string)        { return 6, "volume.freezeMu" }
func (Commit) line() (int, string)        { return 7, "volume.commitMu" }
func (JournalWindow) line() (int, string) { return 8, "journal.File.growMu" }
func (Catalog) line() (int, string)       { return 9, "catalog.mu" }
func (View) line() (int, string)          { return 10, "View.mu" }
func (Volume) line() (int, string)        { return 11, "volume.mu" }
func (FreeSpace) line() (int, string)     { return 12, "spaceAccount.lookMu" }
func (SegmentRecord) line() (int, string) { return 13, "segment.File.listMu" }
func (JournalHeader) line() (int, string) { return 14, "journal.File.headerMu" }
func (IndexPut) line() (int, string)      { return 15, "storeIndex.putMu" }
func (SegmentState) line() (int, string)  { return 16, "segment.File.mu" }
func (Memory) line() (int, string)        { return 17, "a lock of memory alone" }
