package objstore

import (
	"context"
	"fmt"
	"strings"

	"varve/objstore/failpoint"
)

// DeleteVolume removes a volume that nobody has open and that has no snapshots: its name at once, and then what it has
// not settled. That waits for readers of it; if ctx ends first, the room comes back when the store opens again.
func (s *Store) DeleteVolume(ctx context.Context, name string) error {
	v, err := s.catalog.delete(name, func() { s.hold.Store(s.catalog.anyRefused()) })
	if err != nil {
		return err
	}
	return s.dropVolume(ctx, v)
}

// delete takes a volume out of refs. took runs with mu held when that has taken effect.
func (c *catalog) delete(name string, took func()) (*volume, error) {
	var v *volume
	err := c.update(func() ([]refRecord, error) {
		found, err := c.volume(name)
		if err == nil {
			err = c.mayDelete(found)
		}
		if err != nil {
			return nil, err
		}
		v = found
		v.deleting = true // from here on nobody opens it
		return []refRecord{{Op: opVolumeDelete, ID: v.ref.id}}, nil
	}, func() {
		failpoint.Here(failpoint.VolumeDeleted)
		delete(c.volumes, v.ref.id)
		took()
	})
	if err != nil && v != nil {
		c.mu.Lock()
		v.deleting = false
		c.mu.Unlock()
	}
	return v, err
}

// mayDelete returns what prevents the deletion of a volume.
// REQUIRES: mu is held.
func (c *catalog) mayDelete(v *volume) error {
	if len(v.users) > 0 {
		return fmt.Errorf("volume %s: %w by %s", v.ref.name, ErrInUse, strings.Join(v.users, ", "))
	}
	if n := len(v.ref.snaps); n > 0 {
		has := "a snapshot; delete it first"
		if n > 1 {
			has = fmt.Sprintf("%d snapshots; delete them first", n)
		}
		return fmt.Errorf("volume %s: %w: it has %s", v.ref.name, ErrInUse, has)
	}
	for w := range c.views {
		if w.v == v && w.Root() == "" {
			return fmt.Errorf("volume %s: %w: a snapshot of it that has not settled is open", v.ref.name, ErrInUse)
		}
	}
	return nil
}

// dropVolume gives back what a deleted volume had not settled.
func (s *Store) dropVolume(ctx context.Context, v *volume) error {
	// A settling that is under way reads what is dropped here, and would record it as objects: it must end first.
	v.dropped.Store(true)
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	v.commitMu.Lock()
	v.mu.Lock()
	layers, pinned := v.layers, v.replacePin()
	v.layers, v.dirty, v.writable, v.closed, v.tail = nil, nil, false, true, 0
	if v.appendSegment != nil {
		v.appendSegment.full = true
	}
	v.unstick()
	for _, l := range layers {
		s.pay(l)
	}
	v.room.Broadcast()
	v.base.drop()
	v.mu.Unlock()
	v.commitMu.Unlock()
	for _, l := range layers {
		l.journal.close()
	}
	select {
	case <-pinned.done:
	case <-ctx.Done():
		return fmt.Errorf("volume %s is deleted, but its room is given back only when the store opens again: %w", v.ref.name, ctx.Err())
	case <-s.ctx.Done():
		return nil // the next opening does it
	}
	if d := v.damage.Load(); d != nil {
		for _, name := range d.journals {
			if err := s.removeJournal(name); err != nil {
				return err
			}
		}
	}
	touched := map[*segment]bool{}
	if v.appendSegment != nil {
		touched[v.appendSegment] = true
	}
	for _, l := range layers {
		if err := s.fs.Remove(l.journal.name); err != nil {
			return fmt.Errorf("remove journal: %w", err)
		}
		failpoint.Here(failpoint.VolumeDropped)
		for _, h := range mergeSlots(l.handed) {
			g := s.segments.get(h.seg)
			if g == nil {
				continue
			}
			touched[g] = true
			g.mu.Lock()
			objs := g.sorted()
			g.mu.Unlock()
			s.punchBetween(g, h.from, h.to, objs)
			g.unsettled.Add(h.from - h.to)
		}
	}
	for g := range touched {
		if err := s.retireOrSeal(v, g); err != nil {
			return err
		}
	}
	return nil
}
