package objstore

// Signatures that are being written; this file shrinks to nothing.

import "context"

type (
	Store   struct{}
	Volume  struct{}
	View    struct{}
	pin     struct{}
	segment struct{}
)

// Options of an open store. The zero value is the default.
type Options struct {
	// more: limits of tail, caches, reserve. Every field has a default.
	// TrustCache is asked for a volume that was not closed cleanly in this boot: did whoever relied on its
	// unflushed writes survive (a ublk device that waits for its server)? nil means no.
	TrustCache func(volume string) bool
}

func Init(dir string, o InitOptions) error                            { panic("unwritten") }
func Open(ctx context.Context, dir string, o Options) (*Store, error) { panic("unwritten") }

// Close commits the journals and closes; it settles nothing.
func (s *Store) Close() error { panic("unwritten") }
func (s *Store) CreateVolume(ctx context.Context, name string, o VolumeOptions) (VolumeInfo, error) {
	panic("unwritten")
}
func (s *Store) DeleteVolume(ctx context.Context, name string) error { panic("unwritten") }

// Volumes in order of name.
func (s *Store) Volumes() []VolumeInfo                      { panic("unwritten") }
func (s *Store) VolumeInfo(name string) (VolumeInfo, error) { panic("unwritten") }

// OpenVolume gives the volume's engine object, the same to every caller; user names who has it open
// ("ublk /dev/ublkb0", "fuse"). Call Close once for each OpenVolume.
func (s *Store) OpenVolume(name, user string) (*Volume, error) { panic("unwritten") }

// CreateSnapshot freezes the volume; durable when it returns, settled later.
func (s *Store) CreateSnapshot(ctx context.Context, volume, snap string) (SnapshotInfo, error) {
	panic("unwritten")
}

// WaitSnapshot returns when the snapshot has settled and its root is durable.
func (s *Store) WaitSnapshot(ctx context.Context, volume, snap string) (SnapshotInfo, error) {
	panic("unwritten")
}
func (s *Store) DeleteSnapshot(ctx context.Context, volume, snap string) error { panic("unwritten") }

// Snapshots of one volume, or of all if volume is empty, in order of creation.
func (s *Store) Snapshots(volume string) ([]SnapshotInfo, error) { panic("unwritten") }
func (s *Store) OpenSnapshot(volume, snap string) (*View, error) { panic("unwritten") }

// OpenRoot opens a settled root by its ID in hex; ErrNotFound unless a volume or snapshot refers to it.
func (s *Store) OpenRoot(root string) (*View, error) { panic("unwritten") }

// Roots lists the settled roots that snapshots and volumes refer to, hex, each once.
func (s *Store) Roots() []string { panic("unwritten") }

// Settle returns when everything written before the call has settled.
func (s *Store) Settle(ctx context.Context) error { panic("unwritten") }
func (s *Store) Stat() (Stat, error)              { panic("unwritten") }

// Volume: Image and the methods below. Safe for concurrent use.
func (v *Volume) Name() string                                               { panic("unwritten") }
func (v *Volume) BlockSize() int                                             { panic("unwritten") }
func (v *Volume) Size() int64                                                { panic("unwritten") }
func (v *Volume) ReadAt(p []byte, off int64) (int, error)                    { panic("unwritten") }
func (v *Volume) Extent(ctx context.Context, off int64) (bool, int64, error) { panic("unwritten") }
func (v *Volume) Plan(off int64, length int, p *Plan) error                  { panic("unwritten") }
func (v *Volume) Load(ctx context.Context, off int64, length int) error      { panic("unwritten") }
func (v *Volume) Release(p *Plan)                                            { panic("unwritten") }

// Reserve finds a place for a write. It does not block on I/O, but for the rare new segment.
// ErrNoSpace and ErrReadOnly are the errors to expect.
func (v *Volume) Reserve(off int64, length int, w *Write) error { panic("unwritten") }

// Commit makes a completed write visible and journaled; it survives the death of this process, and power
// cuts after the next Flush. An error means that the request must fail with EIO.
func (v *Volume) Commit(w *Write) error { panic("unwritten") }

// Abort gives the place up. No I/O to it may be in flight any more.
func (v *Volume) Abort(w *Write) { panic("unwritten") }

// Zero makes a hole (discard, write zeroes). Does not block.
func (v *Volume) Zero(off, length int64) error { panic("unwritten") }

// Flush makes everything committed before the call durable. It blocks; concurrent calls share one commit.
func (v *Volume) Flush() error { panic("unwritten") }

// WriteAt as io.WriterAt, at any offset and length inside the volume; blocks.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) { panic("unwritten") }
func (v *Volume) Close() error                             { panic("unwritten") }

func (w *View) Size() int64                                                { panic("unwritten") }
func (w *View) Root() string                                               { panic("unwritten") }
func (w *View) ReadAt(p []byte, off int64) (int, error)                    { panic("unwritten") }
func (w *View) Extent(ctx context.Context, off int64) (bool, int64, error) { panic("unwritten") }
func (w *View) Plan(off int64, length int, p *Plan) error                  { panic("unwritten") }
func (w *View) Load(ctx context.Context, off int64, length int) error      { panic("unwritten") }
func (w *View) Release(p *Plan)                                            { panic("unwritten") }
func (w *View) Close() error                                               { panic("unwritten") }
