package objstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// Check looks at the journals that an opening has replayed, too.
func TestCheckReplayedJournal(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	for i := range 20 {
		r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
	}
	must(t, v.Close())
	name := v.active().journal.Name()
	must(t, r.reopened(r.mem.Kill(), "boot"))
	flip(t, r.mem, name, journal.Offset(5)+9)
	report, err := r.s.Check(context.Background(), nil)
	must(t, err)
	if !slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == name && d.Offset == journal.Offset(5) }) {
		t.Errorf("check does not name it: %+v", report.Damage)
	}
}

// A check of a store that is closed says that, and no damage.
func TestCheckAfterClose(t *testing.T) {
	for range 20 {
		r := newRig(t, Options{})
		must(t, r.s.Close())
		if report, err := r.s.Check(context.Background(), nil); !errors.Is(err, ErrClosed) {
			t.Fatalf("check of a closed store: %v, %+v", err, report)
		}
	}
}

// A footer that is damaged is named by each check, not by the first alone.
func TestCheckNamesFooter(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	for i := range 12 {
		r.write(v, randomBytes(uint64(i+1), 1<<20), int64(i)<<20)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	name := ""
	for _, g := range r.s.segments.All() {
		if g.Sealed() {
			name = segment.Name(g.ID)
			flip(t, r.mem, name, g.Capacity+10)
			break
		}
	}
	for _, opening := range []string{"the store that has it open", "the next opening"} {
		for range 2 {
			report, err := r.s.Check(t.Context(), nil)
			must(t, err)
			if !slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == name && d.Object == "segment footer" }) {
				t.Errorf("%s: check does not name %s: %+v", opening, name, report.Damage)
			}
		}
		must(t, r.reopened(r.mem.Kill(), "boot"))
	}
}

// A file that has lost its name while the store has it open is good until the store is closed:
// check says so before.
func TestCheckNamesMissingFile(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	for i := range 12 {
		r.write(v, randomBytes(uint64(i+1), 1<<20), int64(i)<<20)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.Quiesce())
	r.write(v, randomBytes(1, 4096), 0)
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(1, 4096), 0)
	for _, dir := range []string{"refs", segment.Dir, journal.Dir, "."} {
		names, err := r.mem.List(dir)
		must(t, err)
		for _, name := range names {
			if name = strings.TrimPrefix(dir+"/"+name, "./"); dir == "." && !strings.HasPrefix(name, "superblock") {
				continue
			}
			must(t, r.mem.Rename(name, "aside"))
			report, err := r.s.Check(t.Context(), nil)
			must(t, err)
			if len(report.Damage) != 1 || report.Damage[0].File != name {
				t.Errorf("%s: check names %+v", name, report.Damage)
			}
			must(t, r.mem.Rename("aside", name))
		}
	}
	if report, err := r.s.Check(t.Context(), nil); err != nil || len(report.Damage) > 0 {
		t.Errorf("%v: check names %+v", err, report.Damage)
	}
}
