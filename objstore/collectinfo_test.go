package objstore

import (
	"bytes"
	"slices"
	"testing"
)

// The past states that a policy keeps are as alive as snapshots, also after the store was opened
// again.
func TestCollectKeepsPastStates(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 10}))
	must(t, err)
	var contents [][]byte
	for seed := range uint64(4) {
		contents = append(contents, randomBytes(seed, 256<<10))
		r.write(v, contents[seed], 0)
		must(t, r.s.Settle(t.Context()))
	}
	states, err := r.s.History("a")
	must(t, err)
	if len(states) < 3 {
		t.Fatalf("%d past states, want at least 3", len(states))
	}
	for _, when := range []string{"after a collection", "after the store was opened again and collected"} {
		r.collect()
		for i, state := range states {
			w, err := r.s.OpenSnapshot("a", state.Name)
			must(t, err)
			got := make([]byte, 256<<10)
			_, err = w.ReadAt(got, 0)
			if err != nil || !slices.ContainsFunc(contents, func(want []byte) bool { return bytes.Equal(got, want) }) {
				t.Errorf("%s: state %d of %d: %v, or other bytes than any that were written", when, i, len(states), err)
			}
			must(t, w.Close())
		}
		must(t, r.s.Close())
		r.open(nil)
	}
}

// The rate is that of the settings, also after the store was opened again, and so is what is known
// of the last collection.
func TestCollectSettings(t *testing.T) {
	r := newRig(t, Options{})
	rate := func() int64 {
		st, err := r.s.Stat()
		must(t, err)
		return st.Collect.Rate
	}
	set := func(bytes int64) {
		must(t, r.s.SetMaintenance(func(m Maintenance) Maintenance { m.CollectRate = bytes; return m }))
	}
	before := rate()
	for _, c := range []struct{ set, want int64 }{{5 << 20, 5 << 20}, {NoCollectLimit, 0}, {0, before}, {7 << 20, 7 << 20}} {
		if set(c.set); rate() != c.want {
			t.Errorf("rate %d after setting %d, want %d", rate(), c.set, c.want)
		}
	}
	v := r.volume("a", 4<<20)
	r.write(v, randomBytes(1, 2<<20), 0)
	must(t, r.s.Settle(t.Context()))
	r.write(v, randomBytes(2, 2<<20), 0)
	must(t, r.s.Settle(t.Context()))
	report := r.collect()
	if report.Freed == 0 {
		t.Fatal("nothing was freed; the test shows nothing")
	}
	must(t, r.s.Close())
	r.open(nil)
	st, err := r.s.Stat()
	must(t, err)
	if c := st.Collect; c.LastFreed != report.Freed || c.LastEnded.Before(c.LastBegun) || c.LastBegun.IsZero() || c.Rate != 7<<20 || c.Phase != CollectIdle {
		t.Errorf("after the store was opened again: %+v; %d bytes were freed", c, report.Freed)
	}
	_, err = r.s.Collect(t.Context(), CollectOptions{DryRun: true})
	must(t, err)
	if now := r.s.collectInfo(); now.LastFreed != report.Freed {
		t.Errorf("a dry run counts as a collection: %+v", now)
	}
}
