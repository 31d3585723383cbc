package objstore

import (
	"context"
	"fmt"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// publish does steps D and E.
func (st *settling) publish(root *merkle.Root) error {
	v := st.v
	id := root.Hash()
	logs := objectLogLengths(st.segments) // before catalog.mu is taken: a segment's lock may be held over I/O
	head := refs.Record{
		Op: refs.OpHead, ID: v.ref.ID, Gen: st.l.gen, Root: id.String(), ObjectLogs: logs, Time: time.Now().UTC().Truncate(time.Second),
	}
	return st.heads.publish(st.ctx, v, &head, func() error {
		st.heads.trimObjectLogs(logs, st.segments)
		if st.pins != nil {
			if err := st.heads.mayPinLocked(st, st.pins.chunks); err != nil { // a snapshot may have been made since
				return err
			}
		}
		head.Logical = st.account()
		return nil
	}, func() {
		failpoint.Here(failpoint.SettleRefs)
		st.heads.settleViews(v, st.l.gen, st.cache, *root)
		st.install(root, id, head.Logical)
		failpoint.Here(failpoint.SettleBase)
	})
}

// publish records the head of a volume that has settled, and assigns its root to the snapshots of
// that generation. may, with mu held, completes the record or refuses it; took is as for update.
func (c *catalog) publish(ctx context.Context, v *volume, head *refs.Record, may func() error, took func()) error {
	return c.update(ctx, func() ([]refs.Record, error) {
		if c.refs.ByID[v.ref.ID] == nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name(), ErrNotFound)
		}
		if err := may(); err != nil {
			return nil, err
		}
		recs := []refs.Record{*head}
		for _, sn := range v.ref.Unsettled {
			if sn.Gen == head.Gen {
				recs = append(recs, refs.Record{Op: refs.OpSnapshot, ID: v.ref.ID, Name: sn.Name, Gen: sn.Gen, Root: head.Root, Logical: head.Logical})
			}
		}
		return recs, nil
	}, took)
}

// settleViews sets a base of their own for the views of a generation that has settled.
// REQUIRES: mu is held.
func (c *catalog) settleViews(v *volume, gen uint64, cache *leafCache, root merkle.Root) {
	for w := range c.views {
		if w.v == v && w.gen == gen {
			w.settled(newBase(cache, root))
		}
	}
}

// install does step E: the root becomes the volume's base, and the layer goes. A commit that is
// under way may still use its journal, which stays open until reclaiming.
// REQUIRES: catalog.mu is held.
func (st *settling) install(root *merkle.Root, id merkle.Hash, logical int64) {
	v := st.v
	v.mu.Lock()
	defer v.mu.Unlock()
	v.base.root, v.base.id = *root, id
	v.base.version++
	v.baseGen, v.baseData = st.l.gen, logical
	for _, t := range st.erased.trees {
		v.base.forget(t)
	}
	for i, l := range st.leaves {
		v.base.setLeaf(i, l)
	}
	for _, n := range v.namings {
		if n.gen == st.l.gen {
			n.settle(id, root.Size, logical)
		}
	}
	v.layers = append(v.layers[:0:0], v.layers[1:]...)
	v.tail -= st.l.bytes
	v.keepPromise()
	st.reclaimer.expect(v) // before its bytes leave the account: a write must not conclude that there is nothing to wait for
	v.attempts.failed.Store(0)
	v.unstick(st.space)
	st.space.settled(st.l)
	if k := v.pins.Load(); k != nil && st.pins == nil && st.l.gen >= k.gen {
		v.pins.Store(nil)
	}
	v.room.fire()
}
