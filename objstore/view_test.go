package objstore

import (
	"context"
	"testing"
)

// The holes of the largest volume are found without walking through them, settled or not.
func TestExtentsOfLargestVolume(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", MaxVolumeSize)
	r.write(v, randomBytes(1, 4096), 1<<40)
	r.write(v, randomBytes(1, 4096), MaxVolumeSize-4096)
	want := []int64{1 << 40, 4096, MaxVolumeSize - 1<<40 - 8192, 4096}
	check := func(what string, im Image) {
		t.Helper()
		var off int64
		for i := 0; off < MaxVolumeSize; i++ {
			hole, n, err := im.Extent(ctx, off)
			must(t, err)
			if i == len(want) || n != want[i] || hole != (i%2 == 0) {
				t.Fatalf("%s: %d bytes at %d, hole: %v; want %v", what, n, off, hole, want)
			}
			off += n
		}
	}
	_, err := r.s.CreateSnapshot(ctx, "a", "s")
	must(t, err)
	view, err := r.s.OpenSnapshot("a", "s")
	must(t, err)
	check("live", v)
	check("snapshot", view)
	must(t, r.s.Settle(ctx))
	check("settled", v)
	check("settled snapshot", view)
	must(t, v.Zero(0, MaxVolumeSize))
	must(t, r.s.Settle(ctx))
	want = []int64{MaxVolumeSize}
	check("discarded", v)
	must(t, view.Close())
}
