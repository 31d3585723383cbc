package fs

import (
	"context"

	"varve/objstore"
)

// Image is a readable disk. Safe for concurrent use.
type Image interface {
	// Size in bytes.
	Size() int64
	// ReadContext is io.ReaderAt's ReadAt, at any offset and length. When ctx ends, so do waits, and
	// it returns early with the error of ctx.
	ReadContext(ctx context.Context, p []byte, off int64) (int, error)
	// Extent reports whether there is a hole at off, and for how many bytes, at least 1, that
	// holds.
	Extent(ctx context.Context, off int64) (hole bool, length int64, err error)
	// Close releases the image. The mount calls it once for each open.
	Close() error
}

// Volume is a readable and writable disk. Safe for concurrent use.
type Volume interface {
	Image
	// Name of the volume, which changes when the volume is renamed.
	Name() string
	// WriteContext is io.WriterAt's WriteAt, at any offset and length inside the volume. When ctx
	// ends, so do waits, and it returns early with the error of ctx.
	WriteContext(ctx context.Context, p []byte, off int64) (int, error)
	// ZeroContext punches a hole; off and length are multiples of objstore.SectorSize. When ctx
	// ends, so do waits.
	ZeroContext(ctx context.Context, off, length int64) error
	// Flush makes everything written before the call durable.
	Flush() error
	// Claim excludes the volume's other side until release is called. It returns objstore.ErrInUse
	// if the other side has a claim.
	Claim(side objstore.Side) (release func(), err error)
	// Changes returns a number that differs after every change of the volume.
	Changes() uint64
}

// Source is what a mount shows. Its errors wrap objstore's sentinels. Store returns the Source of a
// store. Every method may be called concurrently, until the mount has ended.
type Source interface {
	VolumeSource
	SnapshotSource
	RootSource
	// Diff compares two images as Store.Diff does.
	Diff(ctx context.Context, from, to objstore.ImageName, begin func(objstore.DiffImages) error,
		changed func(objstore.Change) error) (objstore.DiffTotal, error)
	// Space returns the bytes that the store uses and the bytes available to it.
	Space() (used, free int64, err error)
}

// VolumeSource is the part of a Source below volumes/.
type VolumeSource interface {
	Volumes() []objstore.VolumeInfo
	VolumeInfo(name string) (objstore.VolumeInfo, error)
	// VolumeByID is VolumeInfo for a volume of which only the ID is certain: it may have been
	// renamed.
	VolumeByID(id string) (objstore.VolumeInfo, error)
	// OpenVolume opens a volume. user appears among the volume's users while it is open.
	OpenVolume(name, user string) (Volume, error)
}

// SnapshotSource is the part of a Source below snapshots/.
type SnapshotSource interface {
	// Snapshots returns the snapshots of one volume, or of all if volume is empty. SnapshotInfo is
	// cheaper for one.
	Snapshots(volume string) ([]objstore.SnapshotInfo, error)
	SnapshotInfo(volume, snap string) (objstore.SnapshotInfo, error)
	// History returns the past states of a volume. What takes the name of a snapshot takes that of a
	// state too.
	History(volume string) ([]objstore.SnapshotInfo, error)
	OpenSnapshot(volume, snap string) (Image, error)
}

// RootSource is the part of a Source below by-id/.
type RootSource interface {
	// Roots returns the settled roots in hexadecimal, each once.
	Roots() []string
	RootInfo(root string) (objstore.RootInfo, error)
	OpenRoot(root string) (Image, error)
}
