package objstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/maintenance"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// scrubRig is a store with several sealed segments, and a clock that the test sets.
type scrubRig struct {
	*rig
	clock time.Time
}

func newScrubRig(t *testing.T) *scrubRig {
	t.Helper()
	r := &scrubRig{clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	r.rig = newRig(t, Options{Now: func() time.Time { return r.clock }})
	r.grow(1)
	return r
}

// grow adds some segments.
func (r *scrubRig) grow(seed uint64) {
	r.t.Helper()
	v := r.volume("a", 1<<30)
	for i := range uint64(30) {
		r.write(v, randomBytes(seed*1000+i, 1<<20), int64(seed*64+i)<<20)
	}
	must(r.t, r.s.Settle(r.t.Context()))
	must(r.t, v.Close())
}

func (r *scrubRig) sealed() []*segment.File {
	return slices.DeleteFunc(r.s.segments.All(), func(g *segment.File) bool { return !g.Sealed() })
}

func (r *scrubRig) check(o CheckOptions) *CheckReport {
	r.t.Helper()
	report, err := r.s.CheckStore(r.t.Context(), o)
	must(r.t, err)
	return report
}

// damage flips a bit of the first object of a segment.
func (r *scrubRig) damage(g *segment.File) {
	r.t.Helper()
	objs, err := g.Objects()
	must(r.t, err)
	flip(r.t, r.mem, segment.Name(g.ID), segment.At(g.ID, objs[0].Block).Offset()+17)
}

func names(report *CheckReport, file string) bool {
	return slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == file })
}

// Samples of a quarter of the store have verified all of it after four.
func TestSamplesCoverTheStore(t *testing.T) {
	r := newScrubRig(t)
	sealed := r.sealed()
	if len(sealed) < 6 {
		t.Fatalf("%d sealed segments", len(sealed))
	}
	first := r.check(CheckOptions{Percent: 25})
	if first.Skipped == 0 || first.Segments-first.Skipped > (first.Segments+3)/4+1 {
		t.Errorf("a quarter of %d segments: %d were skipped", first.Segments, first.Skipped)
	}
	for _, g := range sealed {
		r.damage(g)
	}
	found := map[string]bool{}
	for range 4 {
		report := r.check(CheckOptions{Percent: 25})
		for _, g := range sealed {
			name := segment.Name(g.ID)
			if found[name] && !names(report, name) {
				t.Errorf("damage in %s was found before, and is not in the report", name)
			}
			found[name] = found[name] || names(report, name)
		}
		if report.Damaged() > 0 && len(report.Damage[0].Affects) == 0 {
			t.Errorf("damage of a chunk that the volume has affects nothing: %+v", report.Damage[0])
		}
	}
	for _, g := range sealed {
		if !found[segment.Name(g.ID)] {
			t.Errorf("no sample has read %s", segment.Name(g.ID))
		}
	}
}

// What was verified since a time is not read again; and what was verified at a time that is yet to
// come, by a clock that was set back, is.
func TestCheckSince(t *testing.T) {
	r := newScrubRig(t)
	r.check(CheckOptions{})
	first := r.clock
	sealed := len(r.sealed())
	if report := r.check(CheckOptions{Since: first}); report.Skipped != sealed {
		t.Errorf("%d of %d sealed segments were skipped, all of which were verified just now", report.Skipped, sealed)
	}
	must(t, r.reopened(r.mem.Kill(), "boot"))
	r.clock = r.clock.Add(100 * time.Hour)
	r.grow(2)
	if report := r.check(CheckOptions{Since: first}); report.Skipped < sealed || report.Skipped == report.Segments {
		t.Errorf("after a kill %d of %d segments were skipped, %d of which were verified before", report.Skipped, report.Segments, sealed)
	}
	if report := r.check(CheckOptions{Since: first.Add(time.Hour)}); report.Skipped == 0 || report.Skipped > len(r.sealed())-sealed+1 {
		t.Errorf("%d of %d segments were skipped, %d of which were verified too long ago", report.Skipped, report.Segments, sealed)
	}
	r.clock = r.clock.Add(-365 * 24 * time.Hour)
	if report := r.check(CheckOptions{Since: r.clock.Add(-time.Hour)}); report.Skipped > 0 {
		t.Errorf("%d segments were skipped that were verified in the future", report.Skipped)
	}
}

// interrupt checks until n segments were verified.
func (r *scrubRig) interrupt(n int) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	_, err := r.s.CheckStore(ctx, CheckOptions{Progress: func(CheckProgress) {
		if done := r.verifiedIn(r.s.upkeep.state.Round); done >= n {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		r.t.Fatalf("a check that was canceled: %v", err)
	}
}

func (r *scrubRig) verifiedIn(round uint32) int {
	u := r.s.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, v := range u.verified {
		if v.round == round {
			n++
		}
	}
	return n
}

// A check that was interrupted goes on where it was, also in the next process, and its report has
// the damage that was found before.
func TestCheckResumes(t *testing.T) {
	for _, how := range []string{"the same process", "closed", "killed", "power cut"} {
		t.Run(how, func(t *testing.T) {
			r := newScrubRig(t)
			if report := r.check(CheckOptions{Resume: true}); report.Resumed != nil || report.Skipped > 0 {
				t.Fatalf("there is nothing to resume: %+v", report)
			}
			r.s.upkeep.every = 0 // a kill costs the segment that is being read alone
			r.damage(r.sealed()[1])
			r.interrupt(4)
			if st, err := r.s.Stat(); err != nil || st.Scrub.State != ScrubInterrupted || st.Scrub.Done == 0 {
				t.Fatalf("%+v, %v", st.Scrub, err)
			}
			if how != "the same process" {
				r.end(how)
				r.open(nil)
			}
			part := r.check(CheckOptions{Percent: 1}) // does not end it
			report := r.check(CheckOptions{Resume: true})
			if report.Skipped < 3 || report.Resumed == nil || report.Resumed.Bytes == 0 || part.Resumed != nil {
				t.Errorf("%d segments were skipped: %+v", report.Skipped, report)
			}
			if name := segment.Name(r.sealed()[1].ID); !names(report, name) {
				t.Errorf("the damage in %s is not in the report: %+v", name, report.Damage)
			}
			st, err := r.s.Stat()
			must(t, err)
			if i := st.Scrub; i.State != ScrubIdle || i.LastDamaged != 1 || i.LastBytes < report.Bytes+report.Resumed.Bytes {
				t.Errorf("after its end: %+v", i)
			}
			if report := r.check(CheckOptions{Resume: true}); report.Resumed != nil || report.Skipped > 0 {
				t.Errorf("it has come to its end: %+v", report)
			}
		})
	}
}

func TestCheckRate(t *testing.T) {
	r := newScrubRig(t)
	began := time.Now()
	report := r.check(CheckOptions{Rate: 64 << 20})
	want := time.Duration(report.Bytes)*time.Second/(64<<20) - throttleBurst
	if took := time.Since(began); took < want {
		t.Errorf("%d bytes in %v, want at least %v", report.Bytes, took, want)
	}
	if report.Seconds < want.Seconds() {
		t.Errorf("the report says %v s", report.Seconds)
	}
	for _, o := range []CheckOptions{{Rate: -1}, {Percent: 101}, {Percent: -1}, {Resume: true, Percent: 5}} {
		if _, err := r.s.CheckStore(t.Context(), o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func (r *scrubRig) schedule(every time.Duration) error {
	return r.s.SetMaintenance(func(m Maintenance) Maintenance { m.ScrubEvery = every; return m })
}

// The schedule counts by the wall clock, and by the time that the store was open where that is set
// back.
func TestScrubDue(t *testing.T) {
	r := newScrubRig(t)
	due := func(want bool, when string) {
		t.Helper()
		if got := r.s.ScrubDue(); got != want {
			t.Errorf("%s: due: %v", when, got)
		}
	}
	due(false, "without a schedule")
	must(t, r.schedule(24*time.Hour))
	due(true, "never checked")
	r.check(r.s.ScrubOptions())
	due(false, "checked just now")
	r.clock = r.clock.Add(23 * time.Hour)
	due(false, "an hour before")
	must(t, r.reopened(r.mem.Kill(), "boot"))
	due(false, "after a kill")
	r.clock = r.clock.Add(time.Hour)
	due(true, "when the time has come")
	r.check(r.s.ScrubOptions())
	r.clock = r.clock.Add(-365 * 24 * time.Hour)
	due(false, "the clock was set back")
	u := r.s.upkeep
	u.mu.Lock()
	u.counted -= 25 * time.Hour
	u.mu.Unlock()
	due(true, "the clock was set back, and the store was open for a day")
	r.check(r.s.ScrubOptions())

	wind := func(d time.Duration) { // the time since which the store is open
		u.mu.Lock()
		u.counted -= d
		u.mu.Unlock()
	}
	wind(900 * time.Millisecond) // which whole seconds leave, and are older than the check's end
	r.check(r.s.ScrubOptions())
	wind(200 * time.Millisecond)
	if i := r.s.upkeep.scrubInfo(); i.Due.Sub(i.LastEnded) != 24*time.Hour {
		t.Errorf("the next check is due %v after the end of the last", i.Due.Sub(i.LastEnded))
	}
	u.running.Store(&checkRun{})
	u.end(&CheckReport{})
	if i := r.s.upkeep.scrubInfo(); i.State != ScrubIdle {
		t.Errorf("a check that has ended is %s", i.State)
	}

	r.interrupt(2)
	due(false, "somebody has begun a check, and it was interrupted")
	ctx, cancel := context.WithCancel(t.Context())
	r.check(CheckOptions{Resume: true})
	r.clock = r.clock.Add(25 * time.Hour)
	o := r.s.ScrubOptions()
	o.Progress = func(CheckProgress) { cancel() }
	if _, err := r.s.CheckStore(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.clock = r.clock.Add(-25 * time.Hour)
	due(true, "a scheduled check was interrupted")
	must(t, r.schedule(0))
	due(false, "the schedule is gone")
}

// Settings are durable when SetMaintenance returns, and unchanged after an error.
func TestSetMaintenance(t *testing.T) {
	r := newScrubRig(t)
	want := Maintenance{ScrubEvery: 30 * 24 * time.Hour, ScrubRate: 1 << 20, CollectRate: 2 << 20}
	must(t, r.s.SetMaintenance(func(Maintenance) Maintenance { return want }))
	r.end("power cut")
	var full atomic.Bool
	r.open(func(op vfs.Op) error {
		if full.Load() && strings.HasPrefix(op.Name, maintenance.File) && op.Kind == vfs.OpWrite {
			return disk.ErrNoSpace
		}
		return nil
	})
	if got := r.s.Maintenance(); got != want {
		t.Errorf("after a power cut: %+v", got)
	}
	full.Store(true)
	if err := r.schedule(time.Hour); !errors.Is(err, ErrNoSpace) {
		t.Errorf("without space: %v", err)
	}
	if report, err := r.s.Check(t.Context(), nil); err != nil || report.Damaged() > 0 {
		t.Errorf("a check without space for its record: %v, %+v", err, report)
	}
	if got := r.s.Maintenance(); got != want {
		t.Errorf("after an error: %+v", got)
	}
	full.Store(false)
	if err := r.schedule(time.Second); !errors.Is(err, ErrInvalid) {
		t.Errorf("every second: %v", err)
	}
	if err := r.s.SetMaintenance(func(m Maintenance) Maintenance { m.CollectRate = -1; return m }); !errors.Is(err, ErrInvalid) {
		t.Errorf("a negative rate: %v", err)
	}
}

// Damage of the record of maintenance is named. One copy repairs the other, and without both the
// settings alone are lost.
func TestMaintenanceDamaged(t *testing.T) {
	r := newScrubRig(t)
	must(t, r.schedule(time.Hour))
	r.check(CheckOptions{})
	files := []string{maintenance.File, maintenance.Copy}
	for n := range files {
		for _, name := range files[:n+1] {
			flip(t, r.mem, name, 40)
			if report := r.check(CheckOptions{Percent: 1}); !names(report, name) && n == 0 {
				t.Errorf("check does not name %s: %+v", name, report.Damage)
			}
			flip(t, r.mem, name, 40)
		}
	}
	for n := range files {
		r.end("killed")
		for _, name := range files[:n+1] {
			flip(t, r.mem, name, 40)
		}
		r.open(nil)
		if kept := r.s.Maintenance().ScrubEvery == time.Hour; kept != (n == 0) {
			t.Errorf("%d of the files are damaged; the schedule is there: %v", n+1, kept)
		}
		report := r.check(CheckOptions{})
		if !names(report, maintenance.File) || report.Damaged() != n*2 {
			t.Errorf("%d of the files are damaged: %+v", n+1, report.Damage)
		}
		for _, d := range maintenance.Verify(r.mem, r.s.sb.ID) {
			t.Errorf("%d of the files were damaged, and are not whole again: %v", n+1, d)
		}
	}
}
