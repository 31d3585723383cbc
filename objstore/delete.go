package objstore

import (
	"context"
	"fmt"
	"strings"

	"varve/objstore/failpoint"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// DeleteVolume removes a volume that nobody has open and that has no snapshots: its name durably,
// and then what it has not settled. The second waits for readers of the volume and continues when
// ctx has ended, which is an error; if the store is closed first, the next opening does it.
func (s *Store) DeleteVolume(ctx context.Context, name string) error {
	v, err := s.catalog.delete(ctx, name, func(v *volume) {
		s.readers.leave(v)
		s.hold.Store(s.catalog.anyRefused())
	})
	if err != nil {
		return err
	}
	s.collector.mayHaveDied(v.ref.Logical)
	done := make(chan error, 1)
	if !s.background(func() { done <- s.remover.dropVolume(v) }) {
		return nil
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("volume %s is deleted, but its space is not free yet: %w", name, ctx.Err())
	}
}

// delete takes a volume out of refs. took runs with mu held when that has taken effect.
func (c *catalog) delete(ctx context.Context, name string, took func(*volume)) (*volume, error) {
	var v *volume
	err := c.update(ctx, func() ([]refs.Record, error) {
		found, err := c.volume(name)
		if err == nil {
			err = c.mayDelete(found)
		}
		if err != nil {
			return nil, err
		}
		v = found
		v.reserved = "deleted" // no call opens it from here on
		return []refs.Record{{Op: refs.OpVolumeDelete, ID: v.ref.ID}}, nil
	}, func() {
		failpoint.Here(failpoint.VolumeDeleted)
		delete(c.volumes, v.ref.ID)
		took(v)
	})
	if err != nil && v != nil {
		c.mu.Lock()
		v.reserved = ""
		c.mu.Unlock()
	}
	return v, err
}

// mayDelete returns what prevents the deletion of a volume.
// REQUIRES: mu is held.
func (c *catalog) mayDelete(v *volume) error {
	if v.reserved != "" {
		return fmt.Errorf("volume %s: %w: it is being %s", v.Name(), ErrInUse, v.reserved)
	}
	if len(v.users) > 0 {
		return fmt.Errorf("volume %s: %w by %s", v.Name(), ErrInUse, strings.Join(v.users, ", "))
	}
	if n := len(v.ref.Snapshots); n > 0 {
		has := "a snapshot; delete it first"
		if n > 1 {
			has = fmt.Sprintf("%d snapshots; delete them first", n)
		}
		return fmt.Errorf("volume %s: %w: it has %s", v.Name(), ErrInUse, has)
	}
	for w := range c.views {
		if w.v == v && w.Root() == "" {
			return fmt.Errorf("volume %s: %w: a snapshot of it that has not settled is open", v.Name(), ErrInUse)
		}
	}
	return nil
}

// end takes a deleted volume out of service. It returns the layers that will not settle, and the
// pin that is done when no plan reads them any more.
func (v *volume) end() ([]*layer, *segment.Pin) {
	// A settling that is under way reads what is dropped here, and would record it as objects: it
	// must end first.
	v.dropped.Store(true)
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	v.mu.Lock()
	layers, readers := v.layers, v.replacePin() // nothing plans on the new one: closed is set below
	v.layers, v.dirty, v.writable, v.closed, v.tail = nil, nil, false, true, 0
	v.keepPromise()
	if v.appendSegment != nil {
		v.appendSegment.Full = true
	}
	v.unstick(v.s.space)
	for _, l := range layers {
		v.s.space.settled(l)
	}
	v.room.fire()
	v.base.drop()
	v.s.readers.left(v, readers)
	v.mu.Unlock()
	for _, l := range layers {
		l.journal.Close()
	}
	return layers, readers
}
