package daemon

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

const (
	// policyInterval is how often the daemon asks which snapshots are due.
	policyInterval = time.Second
	// policyRetry is how long a volume waits whose snapshot could not be made.
	policyRetry = time.Minute
)

func (d *Daemon) serveHistory(_ context.Context, r *http.Request, _ server.None) ([]objstore.SnapshotInfo, error) {
	name, err := volumeName(r)
	if err != nil {
		return nil, err
	}
	return d.store.History(name)
}

// servePrune drops what the policies of volumes do not keep, or says what that is.
func (d *Daemon) servePrune(ctx context.Context, _ *http.Request, p protocol.Prune) (protocol.Pruned, error) {
	out := protocol.Pruned{States: []objstore.SnapshotInfo{}, Snapshots: []objstore.SnapshotInfo{}}
	states, snaps, err := d.store.Prunable(p.Volume)
	if err != nil {
		return out, err
	}
	if p.DryRun {
		out.States, out.Snapshots = append(out.States, states...), append(out.Snapshots, snaps...)
		freed, err := d.wouldPrune(ctx, states, snaps)
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

// wouldPrune returns what dropping states and snapshots would free.
func (d *Daemon) wouldPrune(ctx context.Context, states, snaps []objstore.SnapshotInfo) (objstore.Freed, error) {
	var names []objstore.SnapshotName
	for _, list := range [][]objstore.SnapshotInfo{states, snaps} {
		for _, i := range list {
			names = append(names, objstore.SnapshotName{Volume: i.Volume, Name: i.Name})
		}
	}
	if len(names) == 0 {
		return objstore.Freed{}, nil
	}
	return d.store.WouldFree(ctx, nil, names)
}

// deleteSnapshot deletes a snapshot that is not on a device.
func (d *Daemon) deleteSnapshot(ctx context.Context, volume, name string) error {
	// No attach may begin meanwhile.
	d.change.Lock()
	defer d.change.Unlock()
	of := volume + "@" + name
	if list := d.onDevice(of); len(list) > 0 {
		return errSnapshotAttached(of, list[0])
	}
	return d.store.DeleteSnapshot(ctx, volume, name)
}

// policies makes the snapshots that are due, and deletes those that a policy does not keep. Only
// during a handover it rests.
type policies struct {
	background
	retry map[string]time.Time // of the pass that runs: when a volume is tried again
}

// watchPolicies makes and deletes automatic snapshots until the function that it returns is called,
// which waits for what is under way.
func (d *Daemon) watchPolicies(every time.Duration) (end func()) {
	return repeat(every, d.applyPolicies)
}

// applyPolicies makes the snapshots that are due, and prunes those of their volumes.
func (d *Daemon) applyPolicies(ctx context.Context) {
	due := d.store.SnapshotsDue()
	if len(due) == 0 {
		return
	}
	d.policies.run(ctx, func(ctx context.Context) {
		for _, volume := range due {
			if ctx.Err() == nil && !time.Now().Before(d.policies.retry[volume]) {
				d.applyPolicy(ctx, volume)
			}
		}
	})
}

// applyPolicy makes a snapshot of a volume, or notes when that is tried again.
func (d *Daemon) applyPolicy(ctx context.Context, volume string) {
	err := d.automaticSnapshot(ctx, volume)
	if err == nil || ctx.Err() != nil {
		return
	}
	if d.policies.retry == nil {
		d.policies.retry = map[string]time.Time{}
	}
	d.policies.retry[volume] = time.Now().Add(policyRetry)
	d.log.Warn("an automatic snapshot is not made; the next try follows", "volume", volume, "in", policyRetry, "error", err)
}

// automaticSnapshot makes a snapshot of a volume, and deletes those that its policy does not keep.
func (d *Daemon) automaticSnapshot(ctx context.Context, volume string) error {
	made, err := d.store.CreateAutomatic(ctx, volume)
	if err != nil {
		return err
	}
	delete(d.policies.retry, volume)
	d.log.Info("automatic snapshot created", "snapshot", volume+"@"+made.Name)
	_, drop, err := d.store.Prunable(volume)
	if err != nil {
		return err
	}
	for _, sn := range drop {
		if err := d.deleteSnapshot(ctx, volume, sn.Name); err != nil { // it is tried again with the next one
			d.log.Warn("an automatic snapshot stays that the policy does not keep", "snapshot", volume+"@"+sn.Name, "error", err)
			continue
		}
		d.log.Info("automatic snapshot deleted", "snapshot", volume+"@"+sn.Name)
	}
	return nil
}
