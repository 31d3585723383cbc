package objstore

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// steppedClock is a wall clock that somebody sets.
type steppedClock struct{ offset atomic.Int64 }

func (c *steppedClock) now() time.Time       { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *steppedClock) step(d time.Duration) { c.offset.Add(int64(d)) }

func snapNames(t *testing.T, s *Store, volume string) []string {
	t.Helper()
	list, err := s.Snapshots(volume)
	must(t, err)
	var names []string
	for _, sn := range list {
		names = append(names, sn.Name)
	}
	return names
}

// Snapshots stand in the order in which they were made, whatever the clock said: of one generation
// and of several, after another opening, and after the log was compacted.
func TestSnapshotOrderWithoutClock(t *testing.T) {
	clock := &steppedClock{}
	r := newRig(t, Options{Now: clock.now, SettleDelay: -1})
	v := r.volume("a", 16<<20)
	want := []string{"zero", "yet", "more", "last", "alpha"}
	for i, name := range want {
		if i != 2 { // "yet" and "more" are of one generation
			r.write(v, randomBytes(uint64(i), 8192), int64(i)<<20)
		}
		_, err := r.s.CreateSnapshot(t.Context(), "a", name)
		must(t, err)
		clock.step(-time.Hour)
	}
	check := func(when string) {
		t.Helper()
		if got := snapNames(t, r.s, "a"); !slices.Equal(got, want) {
			t.Errorf("%s: snapshots %v, want %v", when, got, want)
		}
	}
	check("made")
	must(t, r.s.Settle(t.Context()))
	check("settled")
	must(t, r.s.catalog.append(context.Background(), padded(2<<20)))
	must(t, v.Close())
	must(t, r.s.Close())
	r.open(nil) // compacts
	check("compacted")
	must(t, r.s.Close())
	r.open(nil)
	check("opened again")
}

// A clock that steps, by an hour or by a century, neither stops settling nor has it begin before
// its time.
func TestSettlingWithoutClock(t *testing.T) {
	clock := &steppedClock{}
	for _, step := range []time.Duration{-time.Hour, -130 * 365 * 24 * time.Hour, 130 * 365 * 24 * time.Hour} {
		r := newRig(t, Options{Now: clock.now, SettleDelay: 20 * time.Millisecond})
		v := r.volume("a", 16<<20)
		r.write(v, randomBytes(1, 8192), 0)
		clock.step(step)
		r.write(v, randomBytes(2, 8192), 1<<20)
		for end := time.Now().Add(time.Minute); v.backlog().frozen > 0 || r.s.space.tails.Load() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("a step of %v: the tail of %d bytes does not settle", step, r.s.space.tails.Load())
			}
		}

		late := newRig(t, Options{Now: clock.now, SettleDelay: time.Hour})
		v = late.volume("a", 16<<20)
		late.write(v, randomBytes(1, 8192), 0)
		clock.step(2 * time.Hour)
		if v.s.settler.due(v.volume) {
			t.Errorf("a step of 2h: what was just written is due after an hour")
		}
	}
}
