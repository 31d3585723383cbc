package objstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"varve/objstore/internal/refs"
	"varve/objstore/internal/retention"
)

// Retention says what is kept of a volume's past, and how often a snapshot is taken of it. The four
// numbers have the meaning that they have in restic: the newest state of each of so many hours,
// days and weeks of UTC that have any, and so many of the last. They are applied to the history of
// the volume, which is the states to which it settles, and by itself to its automatic snapshots. A
// snapshot that was asked for is never deleted by it. The zero value keeps no history, takes no
// snapshots, and deletes none.
type Retention struct {
	KeepLast      int   `json:"keep_last"`      // 0 to 1,000 each
	KeepHourly    int   `json:"keep_hourly"`    //
	KeepDaily     int   `json:"keep_daily"`     //
	KeepWeekly    int   `json:"keep_weekly"`    //
	SnapshotEvery int64 `json:"snapshot_every"` // seconds, at least 60; 0: no snapshot is taken
}

// Check returns ErrInvalid if a number is out of range.
func (r Retention) Check() error { return refs.RetentionPolicy(r).Check() }

// History lists the past states of a volume, oldest first. Each is named as a snapshot is, by its
// number in braces, and is opened, cloned and rolled back to by that name until the volume's policy
// drops it. Empty unless the volume has a policy.
func (s *Store) History(volume string) ([]SnapshotInfo, error) {
	return s.catalog.history(volume)
}

func (c *catalog) history(volume string) ([]SnapshotInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := c.volume(volume)
	if err != nil {
		return nil, err
	}
	return stateInfos(v.ref, c.past.of(v.ref.ID)), nil
}

// stateInfos describes states.
// REQUIRES: catalog.mu is held.
func stateInfos(ref *refs.Volume, states []*pastState) []SnapshotInfo {
	out := make([]SnapshotInfo, len(states))
	for i, p := range states {
		out[i] = snapInfo(ref, &p.snap)
	}
	return out
}

// Prunable lists what the policy of a volume does not keep, or those of all volumes if the name is
// empty: past states, and automatic snapshots. It is what Prune drops, and what DeleteSnapshot has
// to be called for.
func (s *Store) Prunable(volume string) (states, snapshots []SnapshotInfo, err error) {
	return s.catalog.prunable(volume)
}

func (c *catalog) prunable(volume string) (states, snapshots []SnapshotInfo, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := c.policyVolumes(volume)
	for _, v := range list {
		states = append(states, stateInfos(v.ref, c.past.prune(v.ref, true))...)
		for _, sn := range prunableSnapshots(v.ref) {
			snapshots = append(snapshots, snapInfo(v.ref, sn))
		}
	}
	return states, snapshots, err
}

// policyVolumes returns one volume, or all of them if the name is empty, in order of name.
// REQUIRES: mu is held.
func (c *catalog) policyVolumes(name string) ([]*volume, error) {
	if name != "" {
		v, err := c.volume(name)
		if err != nil {
			return nil, err
		}
		return []*volume{v}, nil
	}
	var out []*volume
	for _, ref := range c.refs.Sorted() {
		if !ref.Scratch() {
			out = append(out, c.volumes[ref.ID])
		}
	}
	return out, nil
}

// prunableSnapshots returns the automatic snapshots that the policy of their volume does not keep,
// oldest first. A policy that says nothing of what to keep keeps them all.
// REQUIRES: catalog.mu is held.
func prunableSnapshots(ref *refs.Volume) []*refs.Snapshot {
	if ref.Policy.Keep().None() {
		return nil
	}
	var auto []*refs.Snapshot
	for _, sn := range ref.Order {
		if !sn.Automatic.IsZero() {
			auto = append(auto, sn)
		}
	}
	return retention.Dropped(ref.Policy.Keep(), auto, func(sn *refs.Snapshot) time.Time { return sn.Automatic })
}

// PruneHistory drops the past states that the policy of a volume does not keep, or those of all
// volumes if the name is empty, and returns them. No record is being decided meanwhile that counts
// on one.
func (s *Store) PruneHistory(ctx context.Context, volume string) (states []SnapshotInfo, err error) {
	c := s.catalog
	err = c.update(ctx, func() ([]refs.Record, error) {
		list, err := c.policyVolumes(volume)
		for _, v := range list {
			states = append(states, stateInfos(v.ref, c.past.prune(v.ref, false))...)
		}
		return nil, err
	}, nil)
	return states, err
}

// SnapshotsDue returns the names of the volumes of which a snapshot is due. One of which nothing
// was written since its last automatic snapshot gets none, until its next turn.
func (s *Store) SnapshotsDue() []string {
	c := s.catalog
	now := c.past.clock.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []string
	for _, v := range c.volumes {
		every := time.Duration(v.ref.Policy.SnapshotEvery) * time.Second
		if every == 0 || v.damageError() != nil {
			continue
		}
		last := lastAutomatic(v.ref)
		if last == nil {
			due = append(due, v.Name())
			continue
		}
		if now.Sub(later(last.Automatic, v.idleSlot)) < every {
			continue
		}
		if v.unchangedSince(last) {
			v.idleSlot = now
			continue
		}
		due = append(due, v.Name())
	}
	slices.Sort(due)
	return due
}

// lastAutomatic returns the newest snapshot that the policy has had made; nil: there is none.
func lastAutomatic(ref *refs.Volume) *refs.Snapshot {
	for _, sn := range slices.Backward(ref.Order) {
		if !sn.Automatic.IsZero() {
			return sn
		}
	}
	return nil
}

// unchangedSince reports whether the volume holds what a snapshot of it holds, as far as that is
// known without reading.
// REQUIRES: catalog.mu is held.
func (v *volume) unchangedSince(sn *refs.Snapshot) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	empty := !v.writable || v.active().empty()
	if empty && v.frozenGen() == sn.Gen {
		return true
	}
	return v.tail == 0 && sn.Settled && v.base.id == sn.Root
}

// CreateAutomatic creates a snapshot of a volume whose policy has it due, with a name made of the
// time.
func (s *Store) CreateAutomatic(ctx context.Context, volume string) (SnapshotInfo, error) {
	base := "auto-" + s.opts.Now().UTC().Format("20060102T150405Z")
	name := base
	for i := 2; ; i++ { // a clock that was set back makes names that are there
		if _, err := s.SnapshotInfo(volume, name); err != nil {
			break
		}
		name = fmt.Sprintf("%s-%d", base, i)
	}
	return s.createSnapshot(ctx, volume, name, s.catalog.past.clock.now())
}
