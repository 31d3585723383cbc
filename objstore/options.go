package objstore

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/vfs"
)

// Options of an open store. The zero value is the default.
type Options struct {
	// SegmentSize in bytes, of segments made from now on; a multiple of 4096, at least 4 MiB +
	// 4096. Default 256 MiB.
	SegmentSize int64
	// TailSoft is how many bytes a volume may write before they settle even while it is busy; below
	// it settling waits for a quiet moment, unless the file system has less room left than all
	// tails take. Default 4 GiB.
	TailSoft int64
	// TailHard is how many unsettled bytes a volume may have; a write beyond waits. Default twice
	// TailSoft.
	TailHard int64
	// JournalRecords is how many records a generation may have, and so bounds the time to open and
	// the memory of the live map (about 50 bytes a record). Default 1 Mi.
	JournalRecords int
	// SettleDelay is the age at which a quiet volume's writes settle. Default 2 s; negative: only
	// when asked or when a tail is full.
	SettleDelay time.Duration
	// LeafCache bounds the memory for loaded leaves (2 KiB each, 256 chunks) in bytes, over all
	// volumes. Default 128 MiB, which reaches over 256 GiB of 16 KiB chunks; at least 16 KiB.
	LeafCache int64
	// FooterCache bounds the memory for footers of sealed segments in bytes. Default 32 MiB.
	FooterCache int64
	// CountMemory bounds the memory for counting the references to chunks in bytes: about 12 a
	// chunk. Above it what images take is estimated. Default 128 MiB, which counts the chunks of
	// 170 GiB of unique data at 16 KiB a chunk.
	CountMemory int64
	// Reserve is the room in bytes that writes leave free in the store's file system, for settling,
	// deleting and opening. Default: a twentieth of the file system, at least 32 MiB, at most 1
	// GiB.
	Reserve int64

	// CollectRate is how many bytes a second a collection reads, writes and frees at most,
	// while there is room. Default 64 MiB; negative: no bound. Store.SetCollectRate changes it.
	CollectRate int64
	// CollectNice is by how much the nice value of the thread that collects is above that of the
	// process. With 10 it gets a tenth of another thread's share when processors are short, and
	// never delays a thread that wakes up. A much higher value could starve it while it holds a
	// lock that others need. Default 0.
	CollectNice int
	// CollectMemory bounds the memory in bytes in which a collection marks what is alive. Three
	// quarters are for a filter of a byte for each object that segments list, so that 96 MiB are
	// enough for 1 TiB of 16 KiB chunks; where that is not enough, each collection makes several
	// passes, and reads all tree nodes in each: two with 64 MiB. The rest is for the nodes that
	// were visited; where that is not enough, some are read again. Default 256 MiB.
	CollectMemory int64

	// TrustCache is asked for a volume whose daemon died in this boot, and whose store was mounted
	// again since: did the user of its unflushed writes survive (a ublk device that waits for its
	// server)? The volume is named by VolumeInfo.MarkName, which its devices are known by. nil
	// means no.
	TrustCache func(markName string) bool
	// Contested is asked for the same volume when TrustCache says no: may something rely on its
	// unflushed writes all the same? Then a volume that has any is refused until AcceptCopies
	// decides it. The devices in question are known by another store's marks, so the volume is
	// named by its ID, and by the names that it has and that its devices had. nil means no.
	Contested func(id uuid.UUID, names ...string) bool
	// Boot and Mount identify the kernel's page cache that the files are written through. Default:
	// the boot ID, and the ID of the mount under the store.
	Boot, Mount string

	// Lock is the store's lock, if the caller holds it before Open and after Close. nil: Open takes
	// it and Close releases it.
	Lock *Lock

	// Now is the wall clock, for the times that are shown of volumes and snapshots, for the names
	// of automatic snapshots, and for where the policy clock begins. Default: time.Now.
	Now func() time.Time

	// LookOnly opens the store without a change to any of its files: what opening has to do is done
	// in memory. It takes no writes, and others may look at the same time.
	LookOnly bool

	// enteredFirst is how many sealed segments at most opening enters into the index itself, before
	// the store serves: a power cut costs the marks of a few. Where the index lacks more, the
	// indexer enters them. Default 8; negative: none.
	enteredFirst int

	// elapsed is how long the machine runs, for the policy clock. Default: vfs.SinceBoot.
	elapsed func() time.Duration
	// shortestHole is how many bytes of dead objects in a row are worth a hole in a segment.
	// Default 64 KiB.
	shortestHole int64
	// collectNeed is when the store begins a collection itself. Default: defaultNeed.
	collectNeed collectNeed

	// FS and Index replace the file layer and the index, for tests. Default: the real ones.
	FS    vfs.FS
	Index index.Index
	// nextIndex, for tests, opens the index that a rebuilding fills. Default: on disk, or in memory
	// if Index is not nil.
	nextIndex func() (nextIndex, error)
	Logger    *slog.Logger
}

const (
	smallestSegment = MaxRequest + disk.BlockSize
	largestReserve  = 1 << 30
	smallestReserve = 32 << 20
	smallestLeaves  = 8 * leafBytes // a request of MaxRequest needs 5 at once: with fewer it would never be planned
)

// EnsureDefaults fills in what is zero.
func (o *Options) EnsureDefaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.SegmentSize, 256<<20)
	def(&o.TailSoft, 4<<30)
	def(&o.TailHard, 2*o.TailSoft)
	def(&o.LeafCache, 128<<20)
	if o.LeafCache >= 0 {
		o.LeafCache = max(o.LeafCache, smallestLeaves)
	}
	def(&o.FooterCache, 32<<20)
	def(&o.CountMemory, 128<<20)
	def(&o.CollectMemory, 256<<20)
	def(&o.shortestHole, shortestHole)
	if o.collectNeed == (collectNeed{}) {
		o.collectNeed = defaultNeed
	}
	if o.JournalRecords == 0 {
		o.JournalRecords = 1 << 20
	}
	if o.enteredFirst == 0 {
		o.enteredFirst = 8
	}
	if o.SettleDelay == 0 {
		o.SettleDelay = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.elapsed == nil {
		o.elapsed = vfs.SinceBoot
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate returns an error for an option that is out of range.
func (o *Options) Validate() error {
	switch {
	case o.SegmentSize < smallestSegment || o.SegmentSize%disk.BlockSize != 0:
		return fmt.Errorf("segment size %d bytes: %w: want a multiple of %d, at least %d", o.SegmentSize, ErrInvalid, disk.BlockSize, smallestSegment)
	case o.TailSoft < 0 || o.TailHard < o.TailSoft:
		return fmt.Errorf("tail limits %d and %d bytes: %w: the hard one must not be below the soft one", o.TailSoft, o.TailHard, ErrInvalid)
	case o.JournalRecords < journal.MinRecords:
		return fmt.Errorf("%d journal records: %w: want at least %d", o.JournalRecords, ErrInvalid, journal.MinRecords)
	case o.LeafCache < 0 || o.FooterCache < 0 || o.CountMemory < 0 || o.CollectMemory < 0 || o.Reserve < 0:
		return fmt.Errorf("negative cache, memory of a collection, or reserve: %w", ErrInvalid)
	}
	return nil
}
