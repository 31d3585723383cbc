package daemon

import (
	"context"
	"log/slog"
	"time"

	"varve/objstore"
)

const (
	// automaticInterval is how often the daemon asks which snapshots are due.
	automaticInterval = time.Second
	// automaticRetry is how long a volume waits after its snapshot could not be made.
	automaticRetry = time.Minute
)

// automaticStore is what automatic snapshots need of the engine.
type automaticStore interface {
	SnapshotsDue() []string
	CreateAutomatic(ctx context.Context, volume string) (objstore.SnapshotInfo, error)
	Prunable(volume string) (states, snapshots []objstore.SnapshotInfo, err error)
}

// automatic makes the snapshots that the policies of volumes ask for, and deletes those that a
// policy does not keep. It is held only during a handover.
type automatic struct {
	background
	store  automaticStore
	delete func(ctx context.Context, volume, snap string) error // refuses a snapshot that is on a device
	log    *slog.Logger

	retry map[string]time.Time // by volume, whose snapshot could not be made; of the running pass
}

// watch makes snapshots when they are due, until end is called, which waits for the running pass.
func (a *automatic) watch(interval time.Duration) (end func()) { return repeat(interval, a.pass) }

// pass makes the snapshots that are due, and prunes those of their volumes.
func (a *automatic) pass(ctx context.Context) {
	due := a.store.SnapshotsDue()
	if len(due) == 0 {
		return
	}
	a.run(ctx, func(ctx context.Context) {
		for _, volume := range due {
			if ctx.Err() == nil && !time.Now().Before(a.retry[volume]) {
				a.volume(ctx, volume)
			}
		}
	})
}

// volume makes a snapshot of a volume, or notes when to retry.
func (a *automatic) volume(ctx context.Context, volume string) {
	err := a.snapshot(ctx, volume)
	if err == nil || ctx.Err() != nil {
		return
	}
	if a.retry == nil {
		a.retry = map[string]time.Time{}
	}
	a.retry[volume] = time.Now().Add(automaticRetry)
	a.log.Warn("automatic snapshot was not made, and is retried", "volume", volume, "in", automaticRetry, "error", err)
}

// snapshot makes a snapshot of a volume, and deletes the automatic ones that its policy does not
// keep.
func (a *automatic) snapshot(ctx context.Context, volume string) error {
	made, err := a.store.CreateAutomatic(ctx, volume)
	if err != nil {
		return err
	}
	delete(a.retry, volume)
	a.log.Info("automatic snapshot created", "snapshot", volume+"@"+made.Name)
	_, drop, err := a.store.Prunable(volume)
	if err != nil {
		return err
	}
	for _, sn := range drop {
		if err := a.delete(ctx, volume, sn.Name); err != nil { // retried after the next snapshot
			a.log.Warn("automatic snapshot that the policy does not keep was not deleted", "snapshot", volume+"@"+sn.Name, "error", err)
			continue
		}
		a.log.Info("automatic snapshot deleted", "snapshot", volume+"@"+sn.Name)
	}
	return nil
}
