package objstore

import (
	"errors"
	"syscall"
	"testing"

	"varve/objstore/vfs"
)

// collectOperations are what a store does whose names come and go: what dies is collected, and
// written again.
var collectOperations = []operation{
	{"write", 20, (*world).opWrite},
	{"zero", 6, (*world).opZero},
	{"snapshot", 6, (*world).opSnapshot},
	{"wait", 4, (*world).opWait},
	{"delete snapshot", 8, (*world).opDeleteSnapshot},
	{"settle", 8, (*world).opSettle},
	{"create", 3, (*world).opCreate},
	{"delete", 2, (*world).opDelete},
	{"clone", 3, (*world).opClone},
	{"rest", 6, (*world).opRest},
	{"reopen", 4, (*world).reopen},
	{"hold", 3, (*world).opHold},
	{"scratch", 2, (*world).opScratch},
	{"roots", 1, (*world).opRoots},
	{"passing", 1, (*world).opPassing},
	{"collect", 20, (*world).opCollect},
}

// Histories of which a good part is collection, with crashes in the midst of it: what can be reached
// is there, in the store that goes on and in the one that comes up. VARVE_CRASH_CUTS and
// VARVE_CRASH_SEED as for TestCrashLong.
func TestCollectLong(t *testing.T) {
	total := longHistories(t, 150, func(w *world) {
		w.others = 2
		if w.pick(2, "collects itself") == 0 {
			w.opts.collectNeed = eagerNeed
		}
		w.collectHistory(120)
	})
	if total["collected objects"] == 0 {
		t.Error("nothing was collected")
	}
}

func (w *world) collectHistory(n int) {
	w.init()
	w.opCreate()
	w.opCreate()
	for range n {
		if w.pick(8, "arm a crash") == 0 {
			w.mem.CutAt(w.mem.Ops() + int64(w.pick(80, "crash at")))
			if w.pick(2, "in a collection") == 0 {
				w.oneOf([]operation{{"collect", 1, (*world).opCollect}})
			}
		}
		if !w.mem.WasCut() {
			w.oneOf(collectOperations)
		}
		if w.mem.WasCut() {
			w.crash(w.pick(crashKinds, "kind of crash"), true)
			w.checkObjects()
		}
	}
	w.endCollecting()
}

// endCollecting ends a history in which collections were cut off: a last one frees what is dead, and
// the room adds up.
func (w *world) endCollecting() {
	if w.mem.CutAt(-1); w.mem.WasCut() {
		w.crash(kill, true)
	}
	w.opSettle()
	w.opCollect()
	w.reopen()
	w.checkSpace()
	w.must(w.stop())
}

// collectable makes a world in which a collection has much to do: sealed segments with dead objects
// and with others that are alive, and an open one with both.
func collectable(t *testing.T, seed uint64) *world {
	w := fixedWorld(t, seed)
	w.opts.CollectRate, w.opts.shortestHole = -1, 4096
	w.init()
	w.fixedCreate("a", 1<<20, 512)
	w.fixedCreate("b", 1<<20, 4096)
	w.fixedWrite("a", 0, 200_000, 1)
	w.fixedWrite("b", 0, 100_000, 2)
	w.opSettle()
	w.fixedSnap("a", "one")
	w.fixedWrite("a", 50_000, 100_000, 3)
	w.fixedWrite("b", 0, 60_000, 4)
	w.opSettle()
	w.reopen() // seals
	w.fixedWrite("a", 150_000, 100_000, 5)
	w.fixedWrite("b", 30_000, 60_000, 6)
	w.opSettle()
	w.reopen()
	w.fixedWrite("b", 0, 20_000, 7)
	w.opSettle()
	w.fixedDeleteSnap("a", "one")
	w.fixedZero("a", 160_000/512*512, 40_960)
	w.opSettle()
	return w
}

// collectAndGoOn collects, and then writes again what has died, and settles that.
func collectAndGoOn(w *world) {
	steps := []func(){
		w.opCollect,
		func() { w.fixedWrite("b", 0, 60_000, 4) },
		w.opSettle,
		w.opCollect,
	}
	for _, step := range steps {
		stop := w.unstick()
		step()
		if stop(); w.mem.WasCut() {
			return
		}
	}
}

// A collection, cut at every single operation, in every way; and then the recovery, too.
func TestEveryCutOfCollection(t *testing.T) {
	stride := int64(3)
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	cuts := 0
	for kind := range crashKinds {
		for n := int64(1); ; n += stride {
			w := collectable(t, uint64(n))
			w.others = 2
			w.mem.SetSeed(n * int64(kind%2))
			w.mem.CutAt(w.mem.Ops() + n)
			collectAndGoOn(w)
			cut := w.mem.WasCut()
			if !cut {
				w.mem.CutAt(-1)
			}
			w.note("cut at %d by %s", n, crashNames[kind])
			w.crash(kind, false)
			w.checkObjects()
			w.opSettle() // checks roots
			w.opCollect()
			w.reopen()
			w.checkObjects()
			w.checkSpace()
			w.must(w.stop())
			if !cut {
				break
			}
			cuts++
		}
	}
	if cuts < 100/int(stride) {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("crash: %d cuts", cuts)
}

// Every operation of a collection fails once, in every way, a full disk among them: what can be
// reached is there, at once, after a crash, and after the next collection.
func TestEveryFaultOfCollection(t *testing.T) {
	stride := 3
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			tried := 0
			for n := 0; ; n += stride {
				w := collectable(t, uint64(n))
				hook, met := w.failing(n, f, func(op vfs.Op) bool {
					switch {
					case f.drop:
						return op.Kind == vfs.OpDatasync
					case errors.Is(f.err, syscall.ENOSPC):
						return op.Kind == vfs.OpWrite || op.Kind == vfs.OpAllocate || op.Kind == vfs.OpCreate || op.Kind == vfs.OpRename ||
							op.Kind == vfs.OpTruncate || op.Kind == vfs.OpPunch
					case f.short:
						return op.Kind == vfs.OpWrite
					}
					return true
				})
				w.setHook(hook)
				collectAndGoOn(w)
				w.setHook(nil)
				what := met()
				w.note("failed: operation %d, %s", n, what)
				if errors.Is(f.err, syscall.ENOSPC) && w.s.writeError() != nil {
					w.failf("a full disk has made the store read-only: %v", w.s.writeError())
				}
				w.checkObjects()
				w.crash(n/stride%crashKinds, false)
				w.checkObjects()
				w.opSettle()
				w.opCollect()
				w.reopen()
				w.checkSpace()
				w.must(w.stop())
				if what == "" {
					break
				}
				tried++
			}
			t.Logf("crash: %d injected faults", tried)
			if tried == 0 {
				t.Fatal("nothing failed")
			}
		})
	}
}
