package daemon

import (
	"context"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// serveWouldFree answers what a deletion would free.
func (d *Daemon) serveWouldFree(ctx context.Context, _ *http.Request, w protocol.WouldFree) (objstore.Freed, error) {
	snaps := make([]objstore.SnapshotName, len(w.Snapshots))
	for i, name := range w.Snapshots {
		volume, snap, err := protocol.SplitSnapshot(name)
		if err != nil {
			return objstore.Freed{}, err
		}
		snaps[i] = objstore.SnapshotName{Volume: volume, Name: snap}
	}
	return d.store.WouldFree(ctx, w.Volumes, snaps)
}
