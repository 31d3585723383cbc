package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"varve/objstore"
)

// steadyWrites is a volume that is written over and over at random, with snapshots that are deleted
// again, and collected from time to time or never.
type steadyWrites struct {
	*ground
	s      *objstore.Store
	v      *objstore.Volume
	block  int
	every  int64 // bytes between two collections; 0: never
	rng    *rand.Rand
	at     int64 // bytes written so far
	seed   uint64
	snaps  int
	lists  int64 // bytes that collections have written, but for copies
	copies int64 // bytes that collections have copied
	cycles int
}

const (
	steadySize     = 512 << 20
	steadySnapshot = 32 << 20 // bytes between two snapshots
	steadyKept     = 2        // snapshots that are kept
	steadyCollect  = 128 << 20
	steadyFlush    = 1 << 20 // bytes between two flushes
)

// writeSteadily measures how much is written to the store's disk for what a user writes.
func (r *reclaimRun) writeSteadily(ctx context.Context, g *ground) error {
	for s := range strings.SplitSeq(r.blocks, ",") {
		kib, err := strconv.Atoi(s)
		if err != nil || kib < 1 {
			return fmt.Errorf("read -blocks: %q is no size in KiB", s)
		}
		block := kib << 10
		for _, every := range []int64{0, steadyCollect} {
			w := &steadyWrites{ground: g, block: block, every: every, rng: rand.New(rand.NewPCG(1, 2))}
			steady := r.steady
			if block < 16<<10 {
				steady /= 4 // each of them settles as a chunk
			}
			if err := w.measure(ctx, steady); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *steadyWrites) measure(ctx context.Context, steady int64) error {
	empty, err := usedOn(w.dir)
	if err != nil {
		return err
	}
	if w.s, err = w.newStore(ctx); err != nil {
		return err
	}
	err = errors.Join(w.run(ctx, steady, empty), w.s.Close())
	return errors.Join(err, os.RemoveAll(w.store()))
}

// run fills the volume, and measures what follows.
func (w *steadyWrites) run(ctx context.Context, steady, empty int64) error {
	if _, err := w.s.CreateVolume(ctx, "disk", objstore.VolumeOptions{Size: steadySize}); err != nil {
		return err
	}
	var err error
	if w.v, err = w.s.OpenVolume("disk", "bench"); err != nil {
		return err
	}
	defer w.v.Close()
	if err = writeRandom(w.v, steadySize, &w.seed); err == nil {
		err = w.overwrite(ctx, steady/4) // until collections find as much as they do later
	}
	if err != nil {
		return err
	}
	if err := w.s.Settle(ctx); err != nil {
		return err
	}
	w.lists, w.copies, w.cycles = 0, 0, 0
	before, err := w.bytesWritten()
	if err != nil {
		return err
	}
	if err := w.overwrite(ctx, steady); err != nil {
		return err
	}
	if err := w.s.Settle(ctx); err != nil {
		return err
	}
	after, err := w.bytesWritten()
	if err != nil {
		return err
	}
	used, err := usedOn(w.dir)
	if err != nil {
		return err
	}
	how := "never"
	if w.every > 0 {
		how = fmt.Sprintf("every %d MiB", w.every>>20)
	}
	fmt.Printf("| %d KiB, random | %s | %d | %d | %.2f | %d | %d | %d | %d |\n", w.block>>10, how, steady>>20, (after-before)>>20,
		float64(after-before)/float64(steady), w.lists>>20, w.copies>>20, (used-empty)>>20, w.cycles)
	return nil
}

// bytesWritten returns what the disk was given, with all that is in memory.
func (w *steadyWrites) bytesWritten() (int64, error) {
	if err := syncOn(w.dir); err != nil {
		return 0, err
	}
	return w.written()
}

// overwrite writes n bytes at random, with flushes, snapshots and collections.
func (w *steadyWrites) overwrite(ctx context.Context, n int64) error {
	buf := make([]byte, w.block)
	for end := w.at + n; w.at < end; {
		w.seed++
		randomBytes(buf, w.seed)
		if _, err := w.v.WriteAt(buf, w.rng.Int64N(steadySize/int64(w.block))*int64(w.block)); err != nil {
			return err
		}
		w.at += int64(w.block)
		if err := w.upkeep(ctx); err != nil {
			return err
		}
	}
	return nil
}

// upkeep does what is due after so many bytes.
func (w *steadyWrites) upkeep(ctx context.Context) error {
	due := func(every int64) bool { return every > 0 && w.at%every == 0 }
	if due(steadyFlush) {
		if err := w.v.Flush(); err != nil {
			return err
		}
	}
	if due(steadySnapshot) {
		w.snaps++
		if _, err := w.s.CreateSnapshot(ctx, "disk", fmt.Sprint("s", w.snaps)); err != nil {
			return err
		}
		if old := w.snaps - steadyKept; old > 0 {
			if err := w.s.DeleteSnapshot(ctx, "disk", fmt.Sprint("s", old)); err != nil {
				return err
			}
		}
	}
	if due(w.every) {
		if err := w.s.Settle(ctx); err != nil {
			return err
		}
		c, err := w.s.Collect(ctx, objstore.CollectOptions{})
		if err != nil {
			return err
		}
		w.lists += c.Written - c.Copied
		w.copies += c.Copied
		w.cycles++
	}
	return nil
}
