package objstore

import (
	"context"
	"errors"
	"testing"
	"time"
)

func init() {
	operations = append(operations, operation{"collect along", 3, (*world).opCollectAlong}, operation{"check", 1, (*world).opCheck})
}

// along is a collection that goes on beside the operations of a world.
type along struct {
	s      *Store
	done   chan struct{}
	report CollectReport
	err    error
	faults int64 // how many hooks the world had set when it began
}

// alongRates are rates in bytes a second at which a collection takes a few operations, a few dozen,
// or no longer than it must.
var alongRates = []int64{-1, 16 << 20, 4 << 20, 1 << 20}

// opCollectAlong begins a collection that goes on beside the next operations, whatever they are,
// until the store is closed, or is evacuated, or another one begins.
func (w *world) opCollectAlong() {
	w.endAlong()
	if w.s == nil || w.mem.WasCut() {
		return
	}
	a := &along{s: w.s, done: make(chan struct{}), faults: w.hooks}
	rate := alongRates[w.pick(len(alongRates), "rate")]
	w.s.SetCollectRate(rate)
	w.along = a
	w.note("collect along, %d bytes a second", rate)
	go func() {
		defer close(a.done)
		a.report, a.err = a.s.Collect(context.Background(), CollectOptions{})
	}()
}

// endAlong waits for the collection that goes on beside the operations, if there is one.
func (w *world) endAlong() {
	a := w.along
	if a == nil {
		return
	}
	defer watch("collect along")()
	w.along = nil
	w.readAllHeld()
	a.s.SetCollectRate(-1)
	if w.s != nil {
		defer w.unstick()()
	}
	<-a.done
	w.note("collected along: freed %d in %d of %d segments, %d passes: %v", a.report.Freed, a.report.Swept, a.report.Segments, a.report.Passes, a.err)
	switch {
	case w.mem.WasCut() || a.s != w.s:
	case a.err == nil:
		w.counts["collected along"]++
		w.counts["collected objects"] += int(a.report.Dead)
		w.checkObjects()
	case w.hooks > a.faults || w.tolerates(a.err) || errors.Is(a.err, ErrClosed):
	default:
		w.failf("collect along: %v", a.err)
	}
}

// opSettleOne has what a volume holds settle. Unlike Settle it does not wait for the room of what has
// settled to be given back, and so not for plans that are held.
func (w *world) opSettleOne() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	gen, err := vol.freeze()
	if w.answered(err, "freeze") {
		ctx, cancel := ctxTimeout()
		defer cancel()
		err = w.s.settler.waitSettled(ctx, vol.volume, gen)
		w.answered(err, "settle one")
	}
	w.note("settle %s: %v", v.name, err)
}

// opCheck has the store checked: nothing is damaged, unless the test has let operations fail.
func (w *world) opCheck() {
	report, err := w.s.Check(context.Background(), nil)
	w.note("check: %v", err)
	if w.answered(err, "check") && w.hooks == 0 && len(report.Damage) > 0 {
		w.failf("check finds %+v", report.Damage)
	}
}

// alongOperations are what goes on beside collections.
var alongOperations = []operation{
	{"collect along", 12, (*world).opCollectAlong},
	{"write", 20, (*world).opWrite},
	{"reserve", 4, (*world).opReserve},
	{"zero", 6, (*world).opZero},
	{"read", 8, (*world).opRead},
	{"extents", 4, (*world).opExtents},
	{"plan", 4, (*world).opPlan},
	{"concurrent", 3, (*world).opConcurrent},
	{"snapshot", 6, (*world).opSnapshot},
	{"wait", 3, (*world).opWait},
	{"delete snapshot", 8, (*world).opDeleteSnapshot},
	{"settle", 8, (*world).opSettle},
	{"settle one", 10, (*world).opSettleOne},
	{"create", 2, (*world).opCreate},
	{"delete", 2, (*world).opDelete},
	{"close", 2, (*world).opCloseVolume},
	{"rest", 4, (*world).opRest},
	{"roots", 2, (*world).opRoots},
	{"would free", 2, (*world).opWouldFree},
	{"hold", 10, (*world).opHold},
	{"scratch", 2, (*world).opScratch},
	{"clone", 5, (*world).opClone},
	{"rollback", 6, (*world).opRollback},
	{"resize", 5, (*world).opResize},
	{"rename", 1, (*world).opRename},
	{"verify", 2, (*world).opVerify},
	{"evacuate", 2, (*world).opEvacuate},
	{"quiesce", 1, (*world).opQuiesce},
	{"give up", 2, (*world).opGiveUp},
	{"break index", 1, (*world).opBreakIndex},
	{"history", 6, (*world).opHistory},
	{"policy", 3, (*world).opPolicy},
	{"automatic", 1, (*world).opAutomatic},
	{"reopen", 2, (*world).reopen},
	{"check", 1, (*world).opCheck},
}

// Collections that go on beside everything else, with crashes in the midst of them. VARVE_CRASH_CUTS
// and VARVE_CRASH_SEED as for TestCrashLong.
func TestCollectAlong(t *testing.T) {
	total := longHistories(t, 40, func(w *world) {
		w.opts.LeafCache = smallestLeaves
		w.others = 1
		w.init()
		w.opCreate()
		w.opCreate()
		for range 100 {
			if w.pick(12, "arm a crash") == 0 {
				w.mem.CutAt(w.mem.Ops() + int64(w.pick(100, "crash at")))
			}
			if w.pick(20, "pause") == 0 {
				time.Sleep(time.Duration(w.pick(20, "milliseconds")) * time.Millisecond)
			}
			w.oneOf(alongOperations)
			if w.mem.WasCut() {
				w.crash(w.pick(crashKinds, "kind of crash"), true)
				w.checkObjects()
			}
		}
		w.endAlong()
		w.endCollecting()
	})
	if total["collected along"] == 0 {
		t.Error("no collection came to its end beside others")
	}
}
