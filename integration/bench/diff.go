package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"varve/objstore"
	"varve/objstore/vfs"
)

// runDiff measures how long it takes, and how much memory, to compare a large volume with a snapshot
// of it, when a number of chunks all over it have changed since: with the store just opened, so that
// no node is in memory, and again.
func runDiff(ctx context.Context, args []string) error {
	var m memoryRun
	var changes int
	flags := m.flags("diff", 16<<30, 16<<10)
	flags.IntVar(&changes, "changes", 1000, "chunks to change after it")
	filled := flags.Bool("filled", false, "use the store in the directory, which collect -only fill has left")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *filled {
		if err := m.changeFilled(ctx, changes); err != nil {
			return err
		}
		return m.compare(ctx, m.store())
	}
	return m.changed(ctx, changes, func(store string) error { return m.compare(ctx, store) })
}

// changed makes a store, fills and changes it as change does, and has it measured.
func (m *memoryRun) changed(ctx context.Context, changes int, measure func(store string) error) error {
	return m.inStore(func(store string, gen *generator) error {
		if err := m.change(ctx, store, gen, changes); err != nil {
			return err
		}
		return measure(store)
	})
}

// change fills the volume, takes a snapshot, and changes chunks, each in another leaf if there are
// as many.
func (m memoryRun) change(ctx context.Context, store string, gen *generator, changes int) error {
	return m.fill(ctx, store, gen, func(s *objstore.Store, v *objstore.Volume) error {
		if err := m.changeChunks(v, gen, changes); err != nil {
			return err
		}
		return s.Settle(ctx)
	})
}

func (m memoryRun) changeChunks(v *objstore.Volume, gen *generator, changes int) error {
	buf, units := make([]byte, gen.chunk), m.written/m.unit()
	for i := range int64(changes) {
		gen.fill(buf, 1<<62+uint64(i))
		if _, err := v.WriteAt(buf, m.place(i*units/int64(changes))); err != nil {
			return err
		}
	}
	return nil
}

// changeFilled takes a snapshot of the volume of a store that was filled before, and changes chunks.
func (m memoryRun) changeFilled(ctx context.Context, changes int) error {
	m.options.FS = vfs.OS(m.store())
	s, err := objstore.Open(ctx, m.store(), m.options)
	if err != nil {
		return err
	}
	if err := s.DeleteSnapshot(ctx, "big", "before"); err != nil && !errors.Is(err, objstore.ErrNotFound) {
		return errors.Join(err, s.Close())
	}
	v, err := s.OpenVolume("big", "bench")
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if _, err = s.CreateSnapshot(ctx, "big", "before"); err == nil {
		err = m.changeChunks(v, newGenerator(m.chunk), changes)
	}
	if err == nil {
		err = s.Settle(ctx)
	}
	return errors.Join(err, v.Close(), s.Close())
}

// fill fills a new volume, "big", takes a snapshot of it, "before", has the volume changed, and closes
// the store.
func (m memoryRun) fill(ctx context.Context, store string, gen *generator, change func(*objstore.Store, *objstore.Volume) error) error {
	s, err := objstore.Open(ctx, store, m.options)
	if err != nil {
		return err
	}
	if _, err = s.CreateVolume(ctx, "big", objstore.VolumeOptions{Size: m.size}); err != nil {
		return errors.Join(err, s.Close())
	}
	v, err := s.OpenVolume("big", "bench")
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if err = m.write(ctx, s, v, gen); err == nil {
		_, err = s.CreateSnapshot(ctx, "big", "before")
	}
	if err == nil {
		err = change(s, v)
	}
	return errors.Join(err, v.Close(), s.Close())
}

// compare opens the store, of which the nodes of trees alone are read from here on, and prints a
// line for each diff.
func (m memoryRun) compare(ctx context.Context, store string) error {
	m.options.FS = vfs.OS(store)
	s, err := objstore.Open(ctx, store, m.options)
	if err != nil {
		return err
	}
	fmt.Printf("\n| diff | ranges | milliseconds | allocated | resident |\n|---|---:|---:|---:|---:|\n")
	from, to := objstore.ImageName{Volume: "big", Snapshot: "before"}, objstore.ImageName{Volume: "big"}
	for _, what := range []string{"first after opening", "second", "third"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		total, derr := s.Diff(ctx, from, to, func(objstore.DiffImages) error { return nil }, func(objstore.Change) error { return nil })
		took := time.Since(began)
		if err = derr; err != nil {
			break
		}
		runtime.ReadMemStats(&after)
		kib, merr := memoryStatus()
		if err = merr; err != nil {
			break
		}
		fmt.Printf("| %s | %d | %.1f | %d MiB | %d MiB |\n", what, total.Ranges, took.Seconds()*1000,
			(after.TotalAlloc-before.TotalAlloc)>>20, kib["VmRSS"]>>10)
	}
	return errors.Join(err, s.Close())
}
