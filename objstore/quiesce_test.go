package objstore

import (
	"errors"
	"os"
	"testing"
	"time"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// Room that a hand-over has kept from being given back is given back when that has failed.
func TestResumeGivesBack(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	for range 3 {
		r.write(v, randomBytes(1, 4<<20), 0)
	}
	var p Plan
	must(t, planLoaded(t.Context(), v, 0, SectorSize, &p)) // a reader, who keeps it from being given back
	gen, err := v.freeze()
	must(t, err)
	must(t, r.s.settler.waitSettled(t.Context(), v.volume, gen))
	for range 3 {
		must(t, r.s.Quiesce())
		r.s.Resume()
		for gone := false; !gone; time.Sleep(time.Millisecond) { // it is about to wait for the reader
			_, err := r.mem.Used(journal.Name(v.ref.ID, gen))
			gone = errors.Is(err, os.ErrNotExist)
		}
	}
	v.Release(&p)
	must(t, r.s.waitReclaimed(t.Context(), nil))
	for _, g := range r.s.segments.All() {
		if n := g.Unsettled.Load(); n != 0 && g != v.appendSegment {
			t.Errorf("all has settled, and %d bytes of %s have not", n, segment.Name(g.ID))
		}
	}
}
