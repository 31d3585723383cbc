package objstore

import (
	"testing"
	"time"
)

// A snapshot that is being made of a state of another size does not keep a collection from finding
// its root: that of an image of zeroes is stored nowhere, and known by its size alone.
func TestCollectBesideUnnamedOfOtherSize(t *testing.T) {
	r := newRig(t, collectAll(Options{}))
	v := r.volume("a", 1<<20)
	n := &naming{}
	_, err := v.freezeFor(n)
	must(t, err)
	must(t, r.s.Settle(t.Context()))
	_, err = r.s.ResizeVolume(t.Context(), "a", 64<<20, ResizeOptions{})
	must(t, err)
	r.collect()
	_, err = r.s.catalog.name(t.Context(), v.volume, "s", n, time.Now(), time.Time{})
	must(t, err)
	w, err := r.s.OpenSnapshot("a", "s")
	must(t, err)
	r.holds(w, make([]byte, 1<<20), 0)
	if w.Size() != 1<<20 {
		t.Errorf("the snapshot has %d bytes", w.Size())
	}
	must(t, w.Close())
}
