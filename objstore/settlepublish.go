package objstore

import (
	"fmt"
	"maps"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
)

// publish does steps D and E.
func (st *settling) publish(root *merkle.Root) error {
	s, v := st.s, st.v
	id := root.Hash()
	logs := s.objectLogLengths() // without s.catalog.mu: a segment's lock may be held over I/O
	var logical int64
	return s.catalog.update(st.ctx, func() ([]refs.Record, error) {
		maps.DeleteFunc(logs, func(g uint32, n int64) bool { return n <= s.catalog.refs.ObjectLogs[g] })
		if s.catalog.refs.ByID[v.ref.ID] == nil {
			return nil, fmt.Errorf("volume %s: %w", v.ref.Name, ErrNotFound)
		}
		if st.pins != nil {
			if err := st.mayPin(st.pins.chunks...); err != nil { // a snapshot may have been made since
				return nil, err
			}
		}
		logical = st.account()
		recs := []refs.Record{{
			Op: refs.OpHead, ID: v.ref.ID, Gen: st.l.gen, Root: id.String(), Logical: logical, ObjectLogs: logs, Time: time.Now().UTC().Truncate(time.Second),
		}}
		for _, sn := range v.ref.Unsettled {
			if sn.Gen == st.l.gen {
				recs = append(recs, refs.Record{Op: refs.OpSnapshot, ID: v.ref.ID, Name: sn.Name, Gen: sn.Gen, Root: id.String(), Logical: logical})
			}
		}
		return recs, nil
	}, func() {
		failpoint.Here(failpoint.SettleRefs)
		for w := range s.catalog.views {
			if w.v == v && w.gen == st.l.gen {
				w.settled(newBase(s, *root))
			}
		}
		st.install(root, id, logical)
		failpoint.Here(failpoint.SettleBase)
	})
}

// install does step E: the root becomes the volume's base, and the layer goes. A commit that is
// under way may still use its journal, which stays open until reclaiming.
// REQUIRES: catalog.mu is held.
func (st *settling) install(root *merkle.Root, id merkle.Hash, logical int64) {
	s, v := st.s, st.v
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
			n.settle(id, logical)
		}
	}
	v.layers = append(v.layers[:0:0], v.layers[1:]...)
	v.tail -= st.l.bytes
	s.reclaimer.expect(v) // before its bytes leave the account: a write must not conclude that there is nothing to wait for
	v.settleFails.Store(0)
	v.unstick()
	s.space.settled(st.l)
	if k := v.pins.Load(); k != nil && st.pins == nil && st.l.gen >= k.gen {
		v.pins.Store(nil)
	}
	v.room.fire()
}
