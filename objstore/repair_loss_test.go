package objstore

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
)

// A repaired journal stays repaired, also when nothing has settled before the next crash.
func TestRepairedTwice(t *testing.T) {
	for _, cutTo := range []int64{journal.Offset(40), journal.Offset(3) + 5, 100} {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		for i := range 20 {
			r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
			must(t, v.Flush())
		}
		name := v.active().journal.Name()
		mem := r.mem.Kill()
		f, err := mem.Open(name)
		must(t, err)
		must(t, f.Truncate(cutTo))
		must(t, f.Close())
		must(t, r.reopened(mem, "boot"))
		said, err := r.s.RepairVolume(context.Background(), "a", true)
		must(t, err)
		if said.Unknown == 0 {
			t.Errorf("cut to %d bytes: the repair says that it knows all that is lost: %+v", cutTo, said)
		}
		must(t, r.reopened(r.mem.Kill(), "boot"))
		r.undamaged("repaired")
		must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(1, 1))), "next boot"))
		r.undamaged("repaired, and a power cut")
	}
}

// A generation that is missing as a whole is more than what the journals behind it speak of.
func TestRepairNamesLoss(t *testing.T) {
	for _, lost := range []string{"a generation", "a snapshot's generation", "the root"} {
		r := newRig(t, Options{})
		ctx := context.Background()
		v := r.volume("a", 1<<20)
		r.write(v, randomBytes(1, 4096), 0)
		_, err := r.s.CreateSnapshot(ctx, "a", "settled")
		must(t, err)
		must(t, r.s.Settle(ctx))
		r.write(v, randomBytes(2, 4096), 0)
		must(t, r.s.Settle(ctx))
		must(t, r.s.Quiesce()) // nothing settles any more
		r.write(v, randomBytes(3, 4096), 4096)
		_, err = r.s.CreateSnapshot(ctx, "a", "unsettled")
		must(t, err)
		gone := v.layers[0].journal.Name()
		if lost == "a generation" {
			r.write(v, randomBytes(4, 4096), 8192)
			must(t, v.Flush())
		}
		mem := r.mem.Kill()
		if lost == "the root" {
			l, err := record.Open(t.Context(), mem, refs.LogFiles, refs.LogID(r.s.sb.ID), false, refs.NewState(disk.MaxChunkSize).ApplyFrame)
			must(t, err)
			b, err := json.Marshal([]refs.Record{{Op: refs.OpHead, ID: v.ref.ID, Gen: v.baseGen, Root: merkle.Sum(merkle.KindRoot, nil).String()}})
			must(t, err)
			must(t, l.Append(b))
			must(t, l.Close())
		} else {
			must(t, mem.Remove(gone))
		}
		must(t, r.reopened(mem, "boot"))
		said, err := r.s.RepairVolume(ctx, "a", false)
		must(t, err)
		if !slices.Contains(said.Snapshots, "unsettled") {
			t.Errorf("%s is lost, and repair does not name the snapshot: %+v", lost, said)
		}
		if said.Unknown == 0 && !within(said.Lost, 4096) {
			t.Errorf("%s is lost, and repair does not say so: %+v", lost, said)
		}
		report, err := r.s.Check(ctx, nil)
		must(t, err)
		if !report.names("a", 4096) || !report.names("a@unsettled", 4096) {
			t.Errorf("%s is lost, and check does not say so: %+v", lost, report.Damage)
		}
		done, err := r.s.RepairVolume(ctx, "a", true)
		must(t, err)
		if !slices.Equal(done.Snapshots, said.Snapshots) {
			t.Errorf("%s: said %+v, did %+v", lost, said, done)
		}
		list, err := r.s.Snapshots("a")
		must(t, err)
		if len(list) != 1 || list[0].Name != "settled" {
			t.Errorf("%s: snapshots after repair: %+v", lost, list)
		}
	}
}
