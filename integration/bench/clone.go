package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"varve/objstore"
	"varve/objstore/vfs"
)

// runClone measures how long it takes to clone a snapshot of a large volume, a clone of a clone and
// so on, and to roll the volume back; and how long reads take at the first and at the last of the
// clones.
func runClone(ctx context.Context, args []string) error {
	var m memoryRun
	var depth int
	var filled bool
	flags := m.flags("clone", 40<<30, 4<<10)
	flags.IntVar(&depth, "depth", 1000, "clones of clones")
	flags.BoolVar(&filled, "filled", false, "use the store in the directory, which collect -only fill has left")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if filled {
		m.options.FS = vfs.OS(m.store())
		return m.clone(ctx, m.store(), depth)
	}
	return m.changed(ctx, 1, func(store string) error { return m.clone(ctx, store, depth) })
}

// clone opens the store and prints a line for each kind of operation.
func (m memoryRun) clone(ctx context.Context, store string, depth int) error {
	s, err := objstore.Open(ctx, store, m.options)
	if err != nil {
		return err
	}
	if _, err := s.CreateSnapshot(ctx, "big", "before"); err != nil && !errors.Is(err, objstore.ErrExists) {
		return errors.Join(err, s.Close())
	}
	fmt.Printf("\n| operation | times | p50 ms | p99 ms | longest ms |\n|---|---:|---:|---:|---:|\n")
	err = repeated("clone of a snapshot", 100, func(i int) error {
		_, err := s.CloneVolume(ctx, "big", "before", fmt.Sprintf("clone-%d", i))
		return err
	})
	last := "clone-0"
	if err == nil {
		err = repeated("clone of a clone", depth, func(i int) error {
			next := fmt.Sprintf("deep-%d", i)
			_, err := s.CloneVolume(ctx, last, "", next)
			last = next
			return err
		})
	}
	for _, at := range []struct{ what, volume string }{{"read 4 KiB at depth 1", "clone-0"}, {fmt.Sprintf("read 4 KiB at depth %d", depth+1), last}} {
		if err == nil {
			err = m.readClone(s, at.what, at.volume)
		}
	}
	if err == nil {
		err = repeated("rollback", 20, func(int) error {
			r, err := s.RollbackVolume(ctx, "big", "before", objstore.RollbackOptions{})
			if err == nil && r.Snapshot != "" { // and back, as the next one would have nothing to do
				_, err = s.RollbackVolume(ctx, "big", r.Snapshot, objstore.RollbackOptions{NoSnapshot: true})
			}
			return err
		})
	}
	return errors.Join(err, s.Close())
}

// readClone reads all over a volume, from leaves that are in memory.
func (m memoryRun) readClone(s *objstore.Store, what, volume string) error {
	v, err := s.OpenVolume(volume, "bench")
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	rng := rand.New(rand.NewPCG(1, 2))
	units := m.written / m.unit()
	offs := make([]int64, 64)
	for i := range offs {
		offs[i] = m.place(rng.Int64N(units))
	}
	read := func(i int) error {
		_, err := v.ReadAt(buf, offs[i%len(offs)]+int64(i/len(offs)%16)*4096)
		return err
	}
	for i := range offs {
		if err == nil {
			err = read(i)
		}
	}
	if err == nil {
		err = repeated(what, 20000, read)
	}
	return errors.Join(err, v.Close())
}

// repeated does something some times, and prints how long it took.
func repeated(what string, times int, do func(i int) error) error {
	took := make([]time.Duration, times)
	for i := range times {
		began := time.Now()
		if err := do(i); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	fmt.Printf("| %s | %d | %.3f | %.3f | %.3f |\n", what, times, ms(took[times/2]), ms(took[times*99/100]), ms(took[times-1]))
	return nil
}
