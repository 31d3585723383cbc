package objstore

import (
	"testing"
	"time"
)

// Tests count operations, and compare what is stored: no collection begins in the midst of one that
// does not ask for it.
func init() { defaultNeed.never = true }

// eagerNeed has a store collect whenever something has died.
var eagerNeed = collectNeed{tick: time.Millisecond, least: 1, leastShort: 1}

// A store begins a collection itself when enough has died, and not again while nothing dies.
func TestCollectsItself(t *testing.T) {
	r := newRig(t, collectAll(Options{collectNeed: eagerNeed}))
	v := r.volume("a", 64<<20)
	for round := range 4 {
		for i := range int64(4) {
			r.write(v, randomBytes(uint64(round*100+int(i)+1), 1<<20), i<<20)
		}
		must(t, r.s.Settle(t.Context()))
	}
	for end := time.Now().Add(30 * time.Second); r.usedBy() > 10<<20; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("12 MiB were overwritten, %d bytes are used, and the collector is idle: %+v", r.usedBy(), r.s.CollectState())
		}
	}
	more := map[time.Time]bool{}
	for range 100 {
		time.Sleep(time.Millisecond)
		more[r.s.CollectState().LastEnd] = true
	}
	if len(more) > 5 { // a few, until the counts have caught up
		t.Errorf("nothing has died, and there were %d collections in 100 ms", len(more))
	}
	r.holds(v, randomBytes(301, 1<<20), 0)
}

// A cycle begins when there is need for one: an eighth of what is stored has died, or less where room
// is short; and later after cycles that took long, or have freed little.
func TestCollectTrigger(t *testing.T) {
	const mib = int64(1 << 20)
	need := defaultNeed
	need.never = false
	for _, c := range []struct {
		name            string
		took, since     time.Duration
		doubt           int64
		suspect, stored int64
		short, waited   bool
		want            bool
	}{
		{"enough has died", time.Second, time.Hour, 1, 200 * mib, 1000 * mib, false, false, true},
		{"an eighth of a large store has not", time.Second, time.Hour, 1, 200 * mib, 10_000 * mib, false, false, false},
		{"little has died in a small store", time.Second, time.Hour, 1, 20 * mib, 40 * mib, false, false, false},
		{"a cycle has just ended", time.Second, 59 * time.Second, 1, 200 * mib, 1000 * mib, false, false, false},
		{"cycles take long", time.Minute, 7 * time.Minute, 1, 200 * mib, 1000 * mib, false, false, false},
		{"and this one began long ago", time.Minute, 9 * time.Minute, 1, 200 * mib, 1000 * mib, false, false, true},
		{"the last one has freed little", time.Second, time.Hour, 4, 200 * mib, 1000 * mib, false, false, false},
		{"room is short", time.Second, 11 * time.Second, 1, 5 * mib, 1000 * mib, true, false, true},
		{"and nothing has died", time.Second, time.Hour, 1, 3 * mib, 1000 * mib, true, false, false},
		{"and a cycle has just ended", time.Second, 9 * time.Second, 1, 5 * mib, 1000 * mib, true, false, false},
		{"and the last one has freed little", time.Second, 30 * time.Second, 4, 5 * mib, 1000 * mib, true, false, false},
		{"and a request waits for it", time.Second, 3 * time.Second, 4, 5 * mib, 1000 * mib, true, true, true},
		{"and cycles take long", time.Second, time.Second, 4, 5 * mib, 1000 * mib, true, true, false},
	} {
		tr := trigger{collectNeed: need, took: c.took, doubt: c.doubt}
		if got := tr.due(c.since, c.suspect, c.stored, c.short, c.waited); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	tr := trigger{collectNeed: need, doubt: 1}
	for _, want := range []int64{2, 4, 4} {
		if tr.note(0, 0, 100*mib, mib); tr.doubt != want {
			t.Errorf("doubt %d after a cycle that has freed little, want %d", tr.doubt, want)
		}
	}
	if tr.note(0, 0, 100*mib, 50*mib); tr.doubt != 1 {
		t.Errorf("doubt %d after a cycle that has freed much", tr.doubt)
	}
}
