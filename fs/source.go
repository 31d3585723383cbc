package fs

import (
	"context"
	"io"

	"varve/objstore"
)

// Image is a disk to read. Safe for concurrent use.
type Image interface {
	// Size in bytes.
	Size() int64
	// ReadAt as io.ReaderAt, at any offset and length.
	ReadAt(p []byte, off int64) (int, error)
	// Extent says what lies at off: whether it is a hole, and how many bytes, 1 at least, are alike.
	Extent(ctx context.Context, off int64) (hole bool, length int64, err error)
	// Close gives the image up; the mount calls it once for each open.
	Close() error
}

// Volume is a disk to read and write. Safe for concurrent use.
type Volume interface {
	Image
	// WriteAt as io.WriterAt, at any offset and length inside the volume.
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes a hole; off and length are multiples of objstore.SectorSize.
	Zero(off, length int64) error
	// Flush makes everything written before the call durable.
	Flush() error
	// Claim keeps the volume's other side out until release; objstore.ErrInUse if that has it.
	Claim(side objstore.Side) (release func(), err error)
	// Changes is another number after every change of the volume.
	Changes() uint64
}

// Source is what a mount shows. Its errors are objstore's sentinels; Store gives one over a store.
// Every method may be called concurrently, and until the mount has ended.
type Source interface {
	VolumeSource
	SnapshotSource
	RootSource
	// Space gives the bytes that the store uses and those that are free for it.
	Space() (used, free int64, err error)
}

// VolumeSource is the part of a Source below volumes/.
type VolumeSource interface {
	Volumes() []objstore.VolumeInfo
	VolumeInfo(name string) (objstore.VolumeInfo, error)
	// OpenVolume opens a volume; user is shown to whoever asks who has it open.
	OpenVolume(name, user string) (Volume, error)
}

// SnapshotSource is the part of a Source below snapshots/.
type SnapshotSource interface {
	// Snapshots of one volume, or of all if volume is empty. It visits each: for a single one there is SnapshotInfo.
	Snapshots(volume string) ([]objstore.SnapshotInfo, error)
	SnapshotInfo(volume, snap string) (objstore.SnapshotInfo, error)
	OpenSnapshot(volume, snap string) (Image, error)
}

// RootSource is the part of a Source below by-id/.
type RootSource interface {
	// Roots lists the settled roots, hex, each once.
	Roots() []string
	RootInfo(root string) (objstore.RootInfo, error)
	OpenRoot(root string) (Image, error)
}

var (
	_ io.ReaderAt = Image(nil)
	_ io.WriterAt = Volume(nil)
)
