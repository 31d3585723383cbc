package daemon

import (
	"context"
	"fmt"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// servePrune deletes what the policies of volumes do not keep, or with DryRun returns what that is.
func (d *Daemon) servePrune(ctx context.Context, _ *http.Request, p protocol.Prune) (protocol.Pruned, error) {
	out := protocol.Pruned{States: []objstore.SnapshotInfo{}, Snapshots: []objstore.SnapshotInfo{}}
	states, snaps, err := d.store.Prunable(p.Volume)
	if err != nil {
		return out, err
	}
	if p.DryRun {
		out.States, out.Snapshots = append(out.States, states...), append(out.Snapshots, snaps...)
		freed, err := d.requests.wouldPrune(ctx, states, snaps)
		out.Freed = &freed
		return out, err
	}
	if states, err = d.store.PruneHistory(ctx, p.Volume); err != nil {
		return out, err
	}
	out.States = append(out.States, states...)
	for _, sn := range snaps {
		if err := d.deleteSnapshot(ctx, sn.Volume, sn.Name); err != nil {
			out.Notes = append(out.Notes, fmt.Sprintf("snapshot %s@%s stays: %v", sn.Volume, sn.Name, err))
			continue
		}
		out.Snapshots = append(out.Snapshots, sn)
	}
	d.log.Info("pruned", "volume", p.Volume, "states", len(out.States), "snapshots", len(out.Snapshots))
	return out, nil
}

// deleteSnapshot deletes a snapshot that is not on a device.
func (d *Daemon) deleteSnapshot(ctx context.Context, volume, name string) error {
	of := volume + "@" + name
	ctx, give, err := d.turns.take(ctx, turnOf(of)) // no attach begins meanwhile
	if err != nil {
		return err
	}
	defer give()
	if list := d.onDevice(of); len(list) > 0 {
		return errSnapshotAttached(of, list[0])
	}
	return d.store.DeleteSnapshot(ctx, volume, name)
}
