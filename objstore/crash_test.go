package objstore

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/segment"
)

// crashCuts is how many crashes the long tests try: VARVE_CRASH_CUTS.
func crashCuts(t testing.TB, def int) int {
	s := os.Getenv("VARVE_CRASH_CUTS")
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("VARVE_CRASH_CUTS: %v", err)
	}
	return n
}

// run does n operations with crashes among them.
func (w *world) run(n int, crashes bool) {
	w.init()
	w.opCreate()
	w.opCreate()
	for range n {
		if crashes && w.pick(8, "arm a crash") == 0 {
			w.mem.CutAt(w.mem.Ops() + int64(w.pick(60, "crash at")))
		}
		w.step()
		if w.mem.WasCut() {
			w.crash(w.pick(crashKinds, "kind of crash"), true)
		}
	}
	if w.mem.CutAt(-1); w.mem.WasCut() {
		w.crash(kill, true)
	}
	w.opSettle()
	for range 2 {
		w.reopen()
	}
	w.checkSpace()
	w.must(w.stop())
}

// checkSpace finds room that no object takes, once everything has settled and been opened again.
func (w *world) checkSpace() {
	w.opSettle()
	w.s.collector.running.Lock() // a segment that it empties takes room until it is unlinked
	defer w.s.collector.running.Unlock()
	for _, g := range w.s.segments.All() {
		objs, err := g.Objects()
		w.must(err)
		want := int64(disk.BlockSize) + disk.RoundUp(g.FooterSize(), disk.BlockSize)
		for _, o := range objs {
			want += disk.RoundUp(int64(o.Length), disk.BlockSize)
		}
		used, err := w.mem.Used(segment.Name(g.ID))
		w.must(err)
		if used > want {
			w.failf("%s takes %d bytes, its %d objects %d; %d unsettled, held %v, damage %v", segment.Name(g.ID), used, len(objs), want, g.Unsettled.Load(), w.s.sealer.holds(g), g.Damage())
		}
	}
}

// The store against its model, without crashes, with choices that shrink.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, uint64(rapid.IntRange(0, 1000).Draw(rt, "bytes")), func(n int, what string) int {
			return rapid.IntRange(0, n-1).Draw(rt, what)
		})
		w.run(rapid.IntRange(1, 40).Draw(rt, "operations"), false)
	})
}

// The same with crashes at any operation.
func TestModelCrash(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, uint64(rapid.IntRange(0, 1000).Draw(rt, "bytes")), func(n int, what string) int {
			return rapid.IntRange(0, n-1).Draw(rt, what)
		})
		w.run(rapid.IntRange(1, 40).Draw(rt, "operations"), true)
	})
}

// seeds gives where the seeds of a long test begin, and prints it.
func firstSeed(t *testing.T) uint64 {
	s := os.Getenv("VARVE_CRASH_SEED")
	if s == "" {
		return 1
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("VARVE_CRASH_SEED: %v", err)
	}
	return n
}

// longHistories has histories run, each in a world of its seed, until they have had so many crashes,
// or VARVE_CRASH_CUTS, or one has failed. It returns what they have counted.
func longHistories(t *testing.T, crashes int, run func(w *world)) (total map[string]int) {
	t.Helper()
	total = map[string]int{}
	want := crashCuts(t, crashes)
	for seed := firstSeed(t); total["crashes"] < want; seed++ {
		ok := t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			w := newWorld(t, seed, nil)
			run(w)
			for k, n := range w.counts {
				total[k] += n
			}
		})
		if !ok {
			break
		}
		total["crashes"] = 0
		for _, kind := range crashNames {
			total["crashes"] += total[kind]
		}
	}
	t.Logf("%v", total)
	t.Logf("crash: %d cuts, of %d moments", total[crashNames[powerCut]]+total["other disks"], total[crashNames[powerCut]])
	t.Logf("crash: %d process kills", total[crashNames[kill]]+total[crashNames[killRemount]]+total[crashNames[killTrusted]])
	return total
}

// Long histories by a seed that is printed: VARVE_CRASH_CUTS=100000 go test -run TestCrashLong. One
// seed again: VARVE_CRASH_SEED=17 VARVE_CRASH_CUTS=1.
func TestCrashLong(t *testing.T) {
	total := longHistories(t, 100, func(w *world) {
		w.others = 3
		w.run(150, true)
	})
	t.Logf("crash: %d crashes in recovery", total["crashes in recovery"])
}
