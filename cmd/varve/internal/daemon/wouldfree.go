package daemon

import (
	"context"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// serveWouldFree answers what a deletion would free.
func (q *storeRequests) serveWouldFree(ctx context.Context, _ *http.Request, w protocol.WouldFree) (objstore.Freed, error) {
	snaps := make([]objstore.SnapshotName, len(w.Snapshots))
	for i, name := range w.Snapshots {
		volume, snap, err := protocol.SplitSnapshot(name)
		if err != nil {
			return objstore.Freed{}, err
		}
		snaps[i] = objstore.SnapshotName{Volume: volume, Name: snap}
	}
	return q.store.WouldFree(ctx, w.Volumes, snaps)
}

// wouldPrune returns what dropping states and snapshots would free.
func (q *storeRequests) wouldPrune(ctx context.Context, states, snaps []objstore.SnapshotInfo) (objstore.Freed, error) {
	var names []objstore.SnapshotName
	for _, list := range [][]objstore.SnapshotInfo{states, snaps} {
		for _, i := range list {
			names = append(names, objstore.SnapshotName{Volume: i.Volume, Name: i.Name})
		}
	}
	if len(names) == 0 {
		return objstore.Freed{}, nil
	}
	return q.store.WouldFree(ctx, nil, names)
}
