package objstore

import (
	"context"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// SectorSize is the unit of lengths and offsets inside a volume: every off and length that a Volume
// or View takes in Plan, Reserve and Zero is in bytes and a multiple of it.
const SectorSize = disk.SectorSize

// MaxRequest is the largest range in bytes that Plan and Reserve take.
const MaxRequest = 4 << 20

// InitOptions are fixed when a store is made. The zero value is the default.
type InitOptions struct {
	// ChunkSize in bytes: 4096, 8192, 16384 (default), 32768 or 65536.
	ChunkSize int
	// MaxSize as of Store.SetMaxSize, which can change it. Default: none.
	MaxSize int64
}

// VolumeOptions are fixed when a volume is made.
type VolumeOptions struct {
	// Size in bytes, a multiple of BlockSize, at most MaxVolumeSize.
	Size int64
	// BlockSize is the logical block size of the device in bytes: 512 (default) or 4096.
	BlockSize int
	// Verify has settled chunks checked against their hashes as they are read: see Store.SetVerify.
	Verify bool
}

// MaxVolumeSize in bytes.
const MaxVolumeSize = disk.MaxVolumeSize

// VolumeInfo describes a volume.
type VolumeInfo struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`         // UUID
	Size      int64     `json:"size"`       // bytes
	BlockSize int       `json:"block_size"` // bytes
	Verify    bool      `json:"verify"`     // settled chunks are checked as they are read
	Created   time.Time `json:"created"`
	Root      string    `json:"root"`    // the last settled root, hex
	Logical   int64     `json:"logical"` // bytes that are not holes in the last settled root
	Tail      int64     `json:"tail"`    // bytes written since, not settled yet
	Snapshots int       `json:"snapshots"`
	Users     []string  `json:"users"` // have it open: "ublk /dev/ublkb0", "fuse"
	// Of is the snapshot, "VOLUME@SNAPSHOT", that a scratch volume lies over. An older varve that
	// has compacted refs has dropped it.
	Of string `json:"of,omitempty"`
	// Quota and Reserve are the volume's Limits, in bytes; 0: none.
	Quota   int64 `json:"quota,omitempty"`
	Reserve int64 `json:"reserve,omitempty"`
	// Damage is why the volume is refused, until RepairVolume.
	Damage string `json:"damage,omitempty"`
	// Policy is what is kept of the volume's past; nil: nothing, and no snapshot is taken.
	Policy *Retention `json:"policy,omitempty"`
	// Share of the last settled root; nil where it was not asked for, or is not known yet.
	Share *Share `json:"share,omitempty"`
	// MarkName tells the volume's devices from those of the store's other volumes. It is the name
	// with which the volume was created, or else unlike any name, and never changes.
	MarkName string `json:"-"`
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	Volume  string    `json:"volume"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Size    int64     `json:"size"`           // bytes
	Root    string    `json:"root,omitempty"` // hex; empty until it has settled
	Logical int64     `json:"logical"`        // bytes that are not holes; 0 until it has settled
	// Automatic: the volume's policy made it, and deletes it. Else a user asked for it, and no
	// policy touches it.
	Automatic bool `json:"automatic,omitempty"`
	// Share is nil where it was not asked for, or is not known yet.
	Share *Share `json:"share,omitempty"`
}

// RootInfo describes a settled root.
type RootInfo struct {
	Root    string `json:"root"`    // hex
	Size    int64  `json:"size"`    // bytes
	Logical int64  `json:"logical"` // bytes that are not holes
}

// Stat is the store in figures, all in bytes unless said otherwise.
type Stat struct {
	UUID              string       `json:"uuid"`
	Path              string       `json:"path"`
	ChunkSize         int          `json:"chunk_size"`
	Volumes           int          `json:"volumes"`                      // count
	Snapshots         int          `json:"snapshots"`                    // count
	Logical           int64        `json:"logical"`                      // sum of the settled volumes' bytes that are not holes
	Stored            int64        `json:"stored"`                       // unique chunk bytes in segments: of volumes, of snapshots, and what is no longer used
	Metadata          int64        `json:"metadata"`                     // tree nodes, directories, journal, refs, index
	Tail              int64        `json:"tail"`                         // written, not settled yet
	Used              int64        `json:"used"`                         // what the store's files occupy on disk
	Uses              *Uses        `json:"uses,omitempty"`               // Used in parts; nil: not known yet
	MaxSize           int64        `json:"max_size"`                     // what they may occupy; 0: what the file system has
	DedupRatio        float64      `json:"dedup_ratio"`                  // Logical / Stored, which has more than volumes hold; 0 where nothing is stored
	Segments          int          `json:"segments"`                     // count
	Unindexed         int          `json:"unindexed_segments,omitempty"` // of Segments, those whose objects the index may lack
	Free              int64        `json:"free"`                         // room for writes: what the file system or MaxSize leave, less the reserve
	Reserve           int64        `json:"reserve"`                      // kept back for deleting, settling and collecting
	Promised          int64        `json:"promised,omitempty"`           // kept for volumes with a reservation, beside Free
	SettleReservation int64        `json:"settle_reservation"`           // of Free, what settling the tails may need
	State             SpaceState   `json:"state"`                        // ok, low or full
	LowAt             int64        `json:"low_at"`                       // low when Free less SettleReservation is below this
	FullAt            int64        `json:"full_at"`                      // full when it is below this
	ReadOnly          string       `json:"read_only,omitempty"`
	DiskError         string       `json:"disk_error,omitempty"` // why Used, Metadata, Free and State are not known
	OpenTime          float64      `json:"open_seconds"`
	Scrub             ScrubInfo    `json:"scrub"`
	Collect           CollectInfo  `json:"collect"`
	Reindex           *ReindexInfo `json:"reindex,omitempty"` // while the index is rebuilt
	PerVolume         []VolumeInfo `json:"per_volume"`
}

// Piece is one part of a Plan: where some bytes of a request lie.
type Piece struct {
	Hole    bool  // zeroes; FD and FileOff mean nothing
	FD      int   // file descriptor, open until Release; O_DIRECT where FileOff and Len allow it
	FileOff int64 // bytes
	BufOff  int   // bytes from the start of the request
	Len     int   // bytes

	seg     *segment.File
	settled bool // it belongs to the tree, not to a layer
}

// Plan is where the bytes of a range lie. The zero value is ready; reusing one avoids every
// allocation. Between Plan and Release the pieces' files are neither closed, punched nor unlinked.
type Plan struct {
	Pieces   []Piece // in order of BufOff, covering the range exactly
	pin      *segment.Pin
	verifier verifier
}

// Write is a slot that is reserved for a write, from Reserve until Commit or Abort, of which
// exactly one is called.
type Write struct {
	FD      int   // write the data here, all of it, at FileOff
	FileOff int64 // bytes, a multiple of 4096
	Off     int64 // volume offset in bytes
	Len     int   // bytes
	seg     *segment.File
	growth  int64 // bytes that it is charged against the volume's limits
}

// Image is what a Volume and a View have in common: a disk to read. Safe for concurrent use.
type Image interface {
	Size() int64
	// ReadAt as io.ReaderAt, at any offset and length; blocks.
	ReadAt(p []byte, off int64) (int, error)
	// ReadContext is ReadAt, and returns early with the error of ctx when ctx ends.
	ReadContext(ctx context.Context, p []byte, off int64) (int, error)
	// Extent returns what lies at off: whether it is a hole, and how many bytes, at least 1, are
	// alike.
	Extent(ctx context.Context, off int64) (hole bool, length int64, err error)
	// Plan never blocks on I/O. ErrNotLoaded: call Load for the range, from a goroutine that may
	// block, and retry.
	Plan(off int64, length int, p *Plan) error
	Load(ctx context.Context, off int64, length int) error
	Release(p *Plan)
}
