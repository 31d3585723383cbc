package fs

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"varve/objstore"
)

// rootListing is MOUNT.
type rootListing struct{ t *tree }

func (l rootListing) find(_ context.Context, name string) (node, error) {
	switch name {
	case "volumes":
		return newDir(l.t, inode("volumes"), volumesListing(l)), nil
	case "snapshots":
		return newDir(l.t, inode("snapshots"), snapshotsListing(l)), nil
	case "by-id":
		return newDir(l.t, inode("by-id"), rootsListing(l)), nil
	case "history":
		return newDir(l.t, inode("history"), historyListing(l)), nil
	case "diff":
		d := newDir(l.t, inode("diff"), diffsListing(l))
		d.longest = maxDiffName
		return d, nil
	}
	return nil, objstore.ErrNotFound
}

func (l rootListing) list(context.Context) ([]fuse.DirEntry, error) {
	return []fuse.DirEntry{
		dirEntry("by-id", inode("by-id")),
		dirEntry("diff", inode("diff")),
		dirEntry("history", inode("history")),
		dirEntry("snapshots", inode("snapshots")),
		dirEntry("volumes", inode("volumes")),
	}, nil
}

func (l rootListing) check() (time.Time, error) { return l.t.started, nil }

// volumesListing is MOUNT/volumes.
type volumesListing struct{ t *tree }

func (l volumesListing) find(_ context.Context, name string) (node, error) {
	info, err := l.t.src.VolumeInfo(name)
	if err != nil {
		return nil, err
	}
	return newDir(l.t, inode("volume", info.ID), volumeListing{l.t, info.Name, info.ID}), nil
}

func (l volumesListing) list(context.Context) ([]fuse.DirEntry, error) {
	var out []fuse.DirEntry
	for _, v := range l.t.src.Volumes() {
		out = append(out, dirEntry(v.Name, inode("volume", v.ID)))
	}
	return out, nil
}

func (l volumesListing) check() (time.Time, error) { return l.t.started, nil }

// volumeListing is MOUNT/volumes/NAME of one volume. The volume is known by its ID: an open
// directory or file of it keeps working when the volume is renamed, and a later volume of the same
// name is another one.
type volumeListing struct {
	t    *tree
	name string // when it was looked up, for messages
	id   string
}

func (l volumeListing) info() (objstore.VolumeInfo, error) { return l.t.src.VolumeByID(l.id) }

func (l volumeListing) find(_ context.Context, name string) (node, error) {
	if _, err := l.info(); err != nil {
		return nil, err
	}
	switch name {
	case "live":
		return &liveFile{base: base{t: l.t, ino: inode("live", l.id)}, volumeListing: l}, nil
	case "info.json":
		return newInfo(l.t, inode("volume info", l.id), l.render), nil
	}
	return nil, objstore.ErrNotFound
}

func (l volumeListing) render() (any, error) {
	info, err := l.info()
	return volumeJSON{info, attachedDevice(info.Users)}, err
}

func (l volumeListing) list(context.Context) ([]fuse.DirEntry, error) {
	if _, err := l.info(); err != nil {
		return nil, err
	}
	return []fuse.DirEntry{
		fileEntry("info.json", inode("volume info", l.id)),
		fileEntry("live", inode("live", l.id)),
	}, nil
}

func (l volumeListing) check() (time.Time, error) {
	info, err := l.info()
	return info.Created, err
}

// snapshotsListing is MOUNT/snapshots: a directory for each volume, and for each deleted volume
// that has snapshots.
type snapshotsListing struct{ t *tree }

func (l snapshotsListing) find(_ context.Context, name string) (node, error) {
	v := volumeSnapshotsListing{l.t, name, ""}
	if info, err := l.t.src.VolumeInfo(name); err == nil {
		v.id = info.ID
	}
	if _, err := v.check(); err != nil {
		return nil, err
	}
	return newDir(l.t, v.inode(), v), nil
}

func (l snapshotsListing) list(context.Context) ([]fuse.DirEntry, error) {
	snaps, err := l.t.src.Snapshots("")
	if err != nil {
		return nil, err
	}
	ids := make(map[string]string) // by name
	for _, s := range snaps {
		ids[s.Volume] = ""
	}
	for _, v := range l.t.src.Volumes() {
		ids[v.Name] = v.ID
	}
	out := make([]fuse.DirEntry, 0, len(ids))
	for name, id := range ids {
		out = append(out, dirEntry(name, volumeSnapshotsListing{l.t, name, id}.inode()))
	}
	slices.SortFunc(out, func(a, b fuse.DirEntry) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (l snapshotsListing) check() (time.Time, error) { return l.t.started, nil }

// volumeSnapshotsListing is MOUNT/snapshots/NAME.
type volumeSnapshotsListing struct {
	t    *tree
	name string // of the volume, when it was looked up
	id   string // of the volume; empty: it is gone, and only its snapshots are left
}

func (l volumeSnapshotsListing) inode() uint64 { return inode("snapshots of", cmp.Or(l.id, l.name)) }

// volume returns the name of the volume.
func (l volumeSnapshotsListing) volume() string {
	if l.id == "" {
		return l.name
	}
	if info, err := l.t.src.VolumeByID(l.id); err == nil {
		return info.Name
	}
	return l.name
}

func (l volumeSnapshotsListing) find(_ context.Context, name string) (node, error) {
	s, err := l.t.src.SnapshotInfo(l.volume(), name)
	if err != nil {
		return nil, err
	}
	return newDir(l.t, snapshotInode("snapshot", s), snapshotListing{l.t, l, s.Name, s.Created}), nil
}

func (l volumeSnapshotsListing) list(context.Context) ([]fuse.DirEntry, error) {
	snaps, err := l.t.src.Snapshots(l.volume())
	if err != nil {
		return nil, err
	}
	out := make([]fuse.DirEntry, 0, len(snaps))
	for _, s := range snaps {
		out = append(out, dirEntry(s.Name, snapshotInode("snapshot", s)))
	}
	return out, nil
}

func (l volumeSnapshotsListing) check() (time.Time, error) {
	name := l.volume()
	info, err := l.t.src.VolumeInfo(name)
	if err == nil {
		return info.Created, nil
	}
	// Snapshots may outlive their volume.
	snaps, snapErr := l.t.src.Snapshots(name)
	if snapErr != nil || len(snaps) == 0 {
		return time.Time{}, err
	}
	return snaps[0].Created, nil
}

// snapshotInode returns an inode number that includes the time of creation, which tells snapshots
// of one name apart.
func snapshotInode(kind string, s objstore.SnapshotInfo) uint64 {
	return inode(kind, s.Volume, s.Name, instant(s.Created))
}

// snapshotListing is MOUNT/snapshots/NAME/SNAP, of one snapshot, which is known by the time of its
// creation: it may be renamed, and a later snapshot of the same name is another one.
type snapshotListing struct {
	t       *tree
	of      volumeSnapshotsListing
	name    string // when it was looked up
	created time.Time
}

func (l snapshotListing) info() (objstore.SnapshotInfo, error) {
	volume := l.of.volume()
	s, err := l.t.src.SnapshotInfo(volume, l.name)
	if err == nil && s.Created.Equal(l.created) {
		return s, nil
	}
	list, err := l.t.src.Snapshots(volume) // it was renamed, or is gone
	for _, s := range list {
		if s.Created.Equal(l.created) {
			return s, nil
		}
	}
	return objstore.SnapshotInfo{}, cmp.Or(err, objstore.ErrNotFound)
}

func (l snapshotListing) find(_ context.Context, name string) (node, error) {
	s, err := l.info()
	if err != nil {
		return nil, err
	}
	switch name {
	case "disk.img":
		return newImage(l.t, snapshotInode("image", s), l), nil
	case "info.json":
		return newInfo(l.t, snapshotInode("snapshot info", s), func() (any, error) { return l.info() }), nil
	}
	return nil, objstore.ErrNotFound
}

func (l snapshotListing) list(context.Context) ([]fuse.DirEntry, error) {
	s, err := l.info()
	if err != nil {
		return nil, err
	}
	return []fuse.DirEntry{
		fileEntry("disk.img", snapshotInode("image", s)),
		fileEntry("info.json", snapshotInode("snapshot info", s)),
	}, nil
}

func (l snapshotListing) check() (time.Time, error) {
	_, err := l.info()
	return l.created, err
}

// rootsListing is MOUNT/by-id.
type rootsListing struct{ t *tree }

func (l rootsListing) find(_ context.Context, name string) (node, error) {
	// A root has one spelling; hex.DecodeString accepts upper case too.
	if b, err := hex.DecodeString(name); err != nil || len(b) == 0 || hex.EncodeToString(b) != name {
		return nil, objstore.ErrNotFound
	}
	r := rootImage{l.t, name}
	if _, err := r.check(); err != nil {
		return nil, err
	}
	return newDir(l.t, inode("by-id", name), rootListingByID{r}), nil
}

func (l rootsListing) list(context.Context) ([]fuse.DirEntry, error) {
	roots := l.t.src.Roots()
	out := make([]fuse.DirEntry, 0, len(roots))
	for _, r := range roots {
		out = append(out, dirEntry(r, inode("by-id", r)))
	}
	return out, nil
}

func (l rootsListing) check() (time.Time, error) { return l.t.started, nil }

// rootListingByID is MOUNT/by-id/ROOT.
type rootListingByID struct{ rootImage }

func (l rootListingByID) find(_ context.Context, name string) (node, error) {
	if _, err := l.check(); err != nil {
		return nil, err
	}
	if name == "disk.img" {
		return newImage(l.t, inode("root image", l.root), l.rootImage), nil
	}
	return nil, objstore.ErrNotFound
}

func (l rootListingByID) list(context.Context) ([]fuse.DirEntry, error) {
	if _, err := l.check(); err != nil {
		return nil, err
	}
	return []fuse.DirEntry{fileEntry("disk.img", inode("root image", l.root))}, nil
}
