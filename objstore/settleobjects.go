package objstore

import (
	"fmt"
	"maps"
	"slices"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/segment"
)

func (st *settling) record(g *segment.File, o segment.Object) segment.Location {
	loc := segment.At(g.ID, o.Block)
	st.fresh[o.Hash], st.own[loc] = loc, true
	st.added[g] = append(st.added[g], o)
	return loc
}

// store stores an object unless the store has it.
func (st *settling) store(k merkle.Kind, h merkle.Hash, data []byte) (segment.Location, error) {
	defer st.lookups.Hold().Release() // what is found is read, to be compared
	st.barrier.keep(&h)               // before it is looked for
	if loc, ok := st.find(&h, k); ok {
		if ok = st.trusts(loc); !ok {
			var err error
			if ok, err = st.confirm(k, &h, loc, data); err != nil {
				return 0, err
			}
		}
		if ok {
			return loc, nil
		}
	}
	return st.append(k, h, data)
}

// append writes an object to a segment of the store's own.
func (st *settling) append(k merkle.Kind, h merkle.Hash, data []byte) (segment.Location, error) {
	g, off, err := st.appenders.of(k).slot(st.ctx, int64(len(data)))
	if err != nil {
		return 0, err
	}
	if err := disk.WriteAligned(g.Data, data, off); err != nil {
		return 0, st.gate.spaceError(fmt.Errorf("write %v: %w", k, err))
	}
	st.copied = append(st.copied, slots{g.ID, off, off + disk.RoundUp(int64(len(data)), disk.BlockSize)})
	failpoint.Here(failpoint.SettleCopied)
	return st.record(g, segment.Object{Hash: h, Block: uint32(off / disk.BlockSize), Length: uint32(len(data)), Kind: k}), nil
}

// durable does steps B and C.
func (st *settling) durable() error {
	segs := slices.Collect(maps.Keys(st.added))
	err := disk.Parallel(segs, func(g *segment.File) error {
		if err := g.Sync(); err != nil {
			st.v.distrustJournals()
			return st.gate.fail(fmt.Errorf("sync %s: %w", segment.Name(g.ID), err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.SettleSynced)
	if err := disk.Parallel(segs, st.recordIn); err != nil {
		return err
	}
	if st.restores {
		st.objects.Quarantine.Repaired()
	}
	return nil
}

// recordIn does step C for one segment.
func (st *settling) recordIn(g *segment.File) error {
	objs := st.added[g]
	if err := st.recorder.list(g, objs); err != nil {
		return err
	}
	failpoint.Here(failpoint.SettleRecorded)
	st.recorder.enter(g, objs)
	failpoint.Here(failpoint.SettleIndexed)
	return nil
}

// objectLogLengths returns the lengths of all object logs that have objects, by segment: a settling
// has written to some, and may refer to objects in others that an interrupted settling has recorded.
func objectLogLengths(segments *segment.Table) map[uint32]int64 {
	out := map[uint32]int64{}
	for _, g := range segments.All() {
		if n := g.ObjectLogSize(); n > record.HeaderSize {
			out[g.ID] = n
		}
	}
	return out
}

// trimObjectLogs leaves out of lengths what refs know, and segments that were retired since the
// lengths were read.
// REQUIRES: mu is held.
func (c *catalog) trimObjectLogs(lengths map[uint32]int64, segments *segment.Table) {
	maps.DeleteFunc(lengths, func(g uint32, n int64) bool {
		return n <= c.refs.ObjectLogs[g] || segments.Get(g) == nil
	})
}
