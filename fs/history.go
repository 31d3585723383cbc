package fs

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"varve/objstore"
)

// historyListing is MOUNT/history: a directory for each volume.
type historyListing struct{ t *tree }

func (l historyListing) find(_ context.Context, name string) (node, error) {
	info, err := l.t.src.VolumeInfo(name)
	if err != nil {
		return nil, err
	}
	return newDir(l.t, inode("history of", info.ID), volumeHistoryListing{volumeSnapshotsListing{l.t, info.Name, info.ID}}), nil
}

func (l historyListing) list(context.Context) ([]fuse.DirEntry, error) {
	var out []fuse.DirEntry
	for _, v := range l.t.src.Volumes() {
		out = append(out, dirEntry(v.Name, inode("history of", v.ID)))
	}
	return out, nil
}

func (l historyListing) check() (time.Time, error) { return l.t.started, nil }

// volumeHistoryListing is MOUNT/history/NAME: a directory for each past state, which is like that of
// a snapshot.
type volumeHistoryListing struct{ of volumeSnapshotsListing }

func (l volumeHistoryListing) find(_ context.Context, name string) (node, error) {
	if !objstore.IsStateName(name) {
		return nil, objstore.ErrNotFound
	}
	s, err := l.of.t.src.SnapshotInfo(l.of.volume(), name)
	if err != nil {
		return nil, err
	}
	return newDir(l.of.t, snapshotInode("state", s), snapshotListing{l.of.t, l.of, s.Name, s.Created}), nil
}

func (l volumeHistoryListing) list(context.Context) ([]fuse.DirEntry, error) {
	states, err := l.of.t.src.History(l.of.volume())
	if err != nil {
		return nil, err
	}
	out := make([]fuse.DirEntry, 0, len(states))
	for _, s := range states {
		out = append(out, dirEntry(s.Name, snapshotInode("state", s)))
	}
	return out, nil
}

func (l volumeHistoryListing) check() (time.Time, error) {
	info, err := l.of.t.src.VolumeInfo(l.of.volume())
	return info.Created, err
}
