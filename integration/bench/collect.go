package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/metrics"
	"runtime/pprof"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
	"varve/objstore/vfs"
)

// runCollect measures a collection of a large store: a volume of which a part, spread over all of
// it, was discarded, so that what was there, with the tree above it, is dead.
// It prints the time, the processor time, the memory and the I/O of a dry run, which marks and reads
// all lists, of the collection, and of one that finds nothing to do.
func runCollect(ctx context.Context, args []string) error {
	var m memoryRun
	var dead int64
	var profile, only, lines string
	flags := m.flags("collect", 16<<30, 16<<10)
	flags.StringVar(&only, "only", "", "fill: make the store and leave it; discard: have a part die in a store that such a run has left, if it was killed; collect: measure such a store; default: fill, collect, and remove it")
	flags.StringVar(&lines, "lines", "64,dry,collection,another", "what to measure: a dry run with marks of 64 MiB at most, a dry run, a collection, another")
	flags.StringVar(&profile, "profile", "", "file for a profile of the processor's time in collections")
	flags.StringVar(&m.heap, "heap", "", "file for a profile of the heap while segments are swept; the last collection's stays")
	flags.Int64Var(&m.options.CountMemory, "count-memory", 0, "bytes for counts of references; 0: the default")
	flags.Int64Var(&dead, "dead", 8, "each how manieth MiB is discarded; the default is where a store begins to collect by itself")
	flags.Int64Var(&m.options.CollectMemory, "collect-memory", 0, "bytes for the marks; 0: the default")
	flags.Int64Var(&m.options.CollectRate, "rate", -1, "bytes a second that are read, written and given back; 0: the default, negative: no limit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fill := func(store string, gen *generator) error { return m.fillAndDiscard(ctx, store, gen, dead) }
	measure := func(store string) error {
		return profiled(profile, func() error { return m.collect(ctx, store, lines) })
	}
	switch only {
	case "":
		return m.inStore(func(store string, gen *generator) error {
			if err := fill(store, gen); err != nil {
				return err
			}
			return measure(store)
		})
	case "fill":
		return profiled(profile, func() error { return m.makeStore(fill) })
	case "discard":
		return m.discardAgain(ctx, dead)
	case "collect":
		return measure(m.store())
	}
	return fmt.Errorf("-only %s: want fill, discard or collect", only)
}

// profiled writes a profile of the processor's time to a file while do runs. Without a name it only
// calls do.
func profiled(name string, do func() error) error {
	if name == "" {
		return do()
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err = pprof.StartCPUProfile(f); err == nil {
		err = do()
		pprof.StopCPUProfile()
	}
	return errors.Join(err, f.Close())
}

// fillAndDiscard fills the volume, and discards a part of it.
func (m memoryRun) fillAndDiscard(ctx context.Context, store string, gen *generator, part int64) error {
	ix := newKnownIndex(store)
	m.options.Index = ix
	printMemoryHeader()
	err := m.fill(ctx, store, gen, func(s *objstore.Store, v *objstore.Volume) error { return m.discard(ctx, s, v, part) })
	return errors.Join(err, ix.Close())
}

// discardAgain discards a part of a volume in a store that was filled before, if not as far as it was to be.
func (m memoryRun) discardAgain(ctx context.Context, part int64) error {
	m.options.FS = vfs.OS(m.store())
	s, err := objstore.Open(ctx, m.store(), m.options)
	if err != nil {
		return err
	}
	v, err := s.OpenVolume("big", "bench")
	if err == nil {
		err = errors.Join(m.discard(ctx, s, v, part), v.Close())
	}
	return errors.Join(err, s.Close())
}

// discard discards each part-th MiB of those that were written, so that their chunks are dead, and the
// tree above them. Nothing is collected before: the snapshot, if there is one, holds everything
// against collections that the store begins itself, and goes last.
func (m memoryRun) discard(ctx context.Context, s *objstore.Store, v *objstore.Volume, part int64) error {
	for i := int64(0); i < m.written/m.unit(); i += part {
		if err := v.Zero(m.place(i), m.unit()); err != nil {
			return err
		}
	}
	if err := s.Settle(ctx); err != nil {
		return err
	}
	err := s.DeleteSnapshot(ctx, "big", "before")
	if errors.Is(err, objstore.ErrNotFound) {
		return nil
	}
	return err
}

// collect opens the store, of which tree nodes and lists alone are read from here on, and prints a
// line for each of the collections that are named, with commas between.
func (m memoryRun) collect(ctx context.Context, store, names string) error {
	m.options.FS = vfs.OS(store)
	fmt.Printf("\n| | seconds | of which marking | processor s | nodes | objects | taken out | marks MiB | passes | "+
		"heap MiB, before | most | of it live | mapped MiB, before | most | read MiB | written MiB | segments |\n|---|%s\n", strings.Repeat("---:|", 16))
	small := m
	small.options.CollectMemory = leastMarks
	var lines []collectLine
	for name := range strings.SplitSeq(names, ",") {
		switch name {
		case "64":
			if err := small.collections(ctx, store, collectLine{"dry run, marks of 64 MiB at most", true}); err != nil {
				return err
			}
		case "dry":
			lines = append(lines, collectLine{"dry run", true})
		case "collection":
			lines = append(lines, collectLine{"collection", false})
		case "another":
			lines = append(lines, collectLine{"another, at once", false})
		default:
			return fmt.Errorf("-lines: %q is none of 64, dry, collection and another", name)
		}
	}
	return m.collections(ctx, store, lines...)
}

// leastMarks is as much as the marks of 1 TiB of 16 KiB chunks take, if nothing is dead.
const leastMarks = 64 << 20

// collectLine is a collection to be measured.
type collectLine struct {
	what string
	dry  bool
}

// collections opens the store, and collects some times.
func (m memoryRun) collections(ctx context.Context, store string, lines ...collectLine) error {
	s, err := objstore.Open(ctx, store, m.options)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err == nil {
			err = m.collectOnce(ctx, s, l.what, l.dry)
		}
	}
	return errors.Join(err, s.Close())
}

// collectOnce collects, and prints a line.
func (m memoryRun) collectOnce(ctx context.Context, s *objstore.Store, what string, dry bool) error {
	before, err := memoryStatus()
	if err != nil {
		return err
	}
	cpu := processorTime()
	watched := watch(s, m.heap)
	r, err := s.Collect(ctx, objstore.CollectOptions{DryRun: dry})
	w := watched()
	if err = errors.Join(err, w.err); err != nil {
		return err
	}
	fmt.Printf("| %s | %.1f | %.1f | %.1f | %d | %d | %d | %.1f | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n", what, r.Seconds,
		w.in[objstore.CollectMarking].Seconds(), (processorTime() - cpu).Seconds(), r.Nodes, r.Objects, r.Dead, float64(r.Memory)/(1<<20), r.Passes,
		before["RssAnon"]>>10, w.heap>>10, w.live>>20, before["RssFile"]>>10, w.mapped>>10, r.Read>>20, r.Written>>20, r.Swept)
	return nil
}

// watched is what was seen of a collection.
type watched struct {
	in           map[objstore.CollectPhase]time.Duration // how long it was in each phase
	heap, mapped int64                                   // the most that was resident of the heap, and of mapped files, in KiB
	live         uint64                                  // the most bytes of the heap that Go's collector has found to be in use
	profiled     bool
	err          error // of the profile
}

// watch looks at a collection and at this process's memory until the function returned is called. It
// writes a profile of the heap to a file, if it has a name, when segments begin to be swept.
func watch(s *objstore.Store, profile string) (stop func() watched) {
	const tick, memoryTicks = 5 * time.Millisecond, 10
	end, result := make(chan struct{}), make(chan watched)
	go func() {
		w, last := watched{in: map[objstore.CollectPhase]time.Duration{}, profiled: profile == ""}, time.Now()
		t := time.NewTicker(tick)
		defer t.Stop()
		for n := 1; ; n++ {
			select {
			case <-end:
				w.look()
				result <- w
				return
			case now := <-t.C:
				phase := s.CollectState().Phase
				w.in[phase] += now.Sub(last)
				last = now
				if n%memoryTicks == 0 {
					w.look()
				}
				if phase == objstore.CollectSweeping && !w.profiled {
					w.profiled, w.err = true, writeHeap(profile)
				}
			}
		}
	}()
	return func() watched {
		close(end)
		return <-result
	}
}

// look notes what this process's memory is now, if it is more than before.
func (w *watched) look() {
	if kib, err := memoryStatus(); err == nil {
		w.heap, w.mapped = max(w.heap, kib["RssAnon"]), max(w.mapped, kib["RssFile"])
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	if metrics.Read(live); live[0].Value.Kind() == metrics.KindUint64 {
		w.live = max(w.live, live[0].Value.Uint64())
	}
}

// processorTime returns what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
