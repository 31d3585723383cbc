package daemon

import (
	"context"

	"varve/objstore"
)

// Store is what the daemon needs of the engine; *objstore.Store implements it.
type Store interface {
	volumes
	snapshots
	Stat() (objstore.Stat, error)
	CountedStat(ctx context.Context) (objstore.Stat, error)
	WouldFree(ctx context.Context, volumes []string, snapshots []objstore.SnapshotName) (objstore.Freed, error)
	Settle(ctx context.Context) error
	Quiesce() error
	Resume()
	SetMaxSize(ctx context.Context, bytes int64) error
	NewUUID() (string, error)
	AcceptCopies(ctx context.Context, from objstore.CopiedFrom) ([]string, error)
	maintained
	Close() error
}

// maintained is the upkeep of a store.
type maintained interface {
	CheckStore(ctx context.Context, o objstore.CheckOptions) (*objstore.CheckReport, error)
	SetMaintenance(change func(objstore.Maintenance) objstore.Maintenance) error
	ScrubDue() bool
	ScrubOptions() objstore.CheckOptions
	Reindex() error
	Collect(ctx context.Context, o objstore.CollectOptions) (objstore.CollectReport, error)
	CollectState() objstore.CollectState
	WaitReindex(ctx context.Context, progress func(objstore.ReindexInfo)) error
}

type volumes interface {
	CreateVolume(ctx context.Context, name string, o objstore.VolumeOptions) (objstore.VolumeInfo, error)
	CloneVolume(ctx context.Context, volume, snap, name string) (objstore.VolumeInfo, error)
	RollbackVolume(ctx context.Context, volume, snap string, o objstore.RollbackOptions) (objstore.Rollback, error)
	RenameVolume(ctx context.Context, name, to string) (objstore.VolumeInfo, error)
	ResizeVolume(ctx context.Context, name string, size int64, o objstore.ResizeOptions) (objstore.VolumeInfo, error)
	History(volume string) ([]objstore.SnapshotInfo, error)
	PruneHistory(ctx context.Context, volume string) ([]objstore.SnapshotInfo, error)
	SetVolume(ctx context.Context, name string, c objstore.VolumeChange) (objstore.VolumeInfo, error)
	DeleteVolume(ctx context.Context, name string) error
	CreateScratch(ctx context.Context, volume, snap string) (objstore.VolumeInfo, error)
	ScratchVolumes() []objstore.VolumeInfo
	RepairVolume(ctx context.Context, name string, accept bool) (objstore.Repair, error)
	Volumes() []objstore.VolumeInfo
	VolumeInfo(name string) (objstore.VolumeInfo, error)
	SharedVolumes(ctx context.Context) ([]objstore.VolumeInfo, error)
	SharedVolume(ctx context.Context, name string) (objstore.VolumeInfo, error)
}

type snapshots interface {
	CreateSnapshot(ctx context.Context, volume, snap string) (objstore.SnapshotInfo, error)
	WaitSnapshot(ctx context.Context, volume, snap string) (objstore.SnapshotInfo, error)
	RenameSnapshot(ctx context.Context, volume, snap, to string) (objstore.SnapshotInfo, error)
	DeleteSnapshot(ctx context.Context, volume, snap string) error
	Snapshots(volume string) ([]objstore.SnapshotInfo, error)
	SnapshotsDue() []string
	CreateAutomatic(ctx context.Context, volume string) (objstore.SnapshotInfo, error)
	Prunable(volume string) (states, snapshots []objstore.SnapshotInfo, err error)
	SharedSnapshots(ctx context.Context, volume string) ([]objstore.SnapshotInfo, error)
	Diff(ctx context.Context, from, to objstore.ImageName, begin func(objstore.DiffImages) error,
		changed func(objstore.Change) error) (objstore.DiffTotal, error)
}
