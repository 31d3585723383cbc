package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"varve/objstore"
)

// cloneAndDelete fills a volume, makes clones of a snapshot of it, writes a MiB to each, deletes all
// of them, and collects.
func (r *reclaimRun) cloneAndDelete(ctx context.Context, g *ground) error {
	empty, err := usedOn(g.dir)
	if err != nil {
		return err
	}
	c := clones{ground: g, empty: empty}
	if c.s, err = g.newStore(ctx); err != nil {
		return err
	}
	fmt.Printf("| %s |", g.fs)
	err = errors.Join(c.run(ctx, r.clones), c.s.Close())
	return err
}

// clones is a store of which clones are made.
type clones struct {
	*ground
	s     *objstore.Store
	empty int64 // bytes that are used without a store
	seed  uint64
}

func (c *clones) run(ctx context.Context, n int) error {
	const size = 200 << 20
	if _, err := c.s.CreateVolume(ctx, "golden", objstore.VolumeOptions{Size: 1 << 30}); err != nil {
		return err
	}
	if err := c.write("golden", size); err != nil {
		return err
	}
	if _, err := c.s.CreateSnapshot(ctx, "golden", "base"); err != nil {
		return err
	}
	if _, err := c.s.Collect(ctx, objstore.CollectOptions{}); err != nil {
		return err
	}
	statBefore, duBefore, err := c.print(ctx)
	if err != nil {
		return err
	}
	name := func(i int) string { return fmt.Sprintf("clone-%d", i) }
	for i := range n {
		if _, err := c.s.CloneVolume(ctx, "golden", "base", name(i)); err != nil {
			return err
		}
		if err := c.write(name(i), 1<<20); err != nil {
			return err
		}
	}
	fmt.Printf(" %d |", n)
	if _, _, err := c.print(ctx); err != nil {
		return err
	}
	for i := range n {
		if err := c.s.DeleteVolume(ctx, name(i)); err != nil {
			return err
		}
	}
	report, err := c.s.Collect(ctx, objstore.CollectOptions{})
	if err == nil {
		err = c.s.WaitReindex(ctx, nil) // which a collection begins if most of the index is dead
	}
	if err != nil {
		return err
	}
	stat, du, err := c.print(ctx)
	if err == nil {
		fmt.Printf(" %.3f | %.3f | %.1f |\n", float64(stat)/float64(statBefore), float64(du)/float64(duBefore), report.Seconds)
	}
	return err
}

// print settles, and prints what the store takes, as the file system says and as du does.
func (c *clones) print(ctx context.Context) (statfs, du int64, err error) {
	if err := c.s.Settle(ctx); err != nil {
		return 0, 0, err
	}
	if statfs, err = usedOn(c.dir); err != nil {
		return 0, 0, err
	}
	if du, err = allocated(c.store()); err != nil {
		return 0, 0, err
	}
	statfs -= c.empty
	fmt.Printf(" %.1f | %.1f |", float64(statfs)/(1<<20), float64(du)/(1<<20))
	return statfs, du, nil
}

// write writes random bytes to the beginning of a volume.
func (c *clones) write(name string, n int64) error {
	v, err := c.s.OpenVolume(name, "bench")
	if err != nil {
		return err
	}
	return errors.Join(writeRandom(v, n, &c.seed), v.Close())
}

// writeRandom writes n random bytes, a multiple of a MiB, to the beginning of a volume; the seed of
// each MiB is one more than that of the last.
func writeRandom(v *objstore.Volume, n int64, seed *uint64) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(buf)) {
		*seed++
		randomBytes(buf, *seed)
		if _, err := v.WriteAt(buf, off); err != nil {
			return err
		}
	}
	return nil
}

// randomBytes fills b with bytes that follow from the seed.
func randomBytes(b []byte, seed uint64) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
}
