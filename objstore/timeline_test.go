package objstore

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/internal/disktest"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/past"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// testTime is the two clocks of a machine: the wall clock, and the one that nobody sets.
type testTime struct{ wall, elapsed atomic.Int64 }

func newTestTime() *testTime {
	c := &testTime{}
	c.wall.Store(time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *testTime) now() time.Time            { return time.Unix(0, c.wall.Load()) }
func (c *testTime) sinceBoot() time.Duration  { return time.Duration(c.elapsed.Load()) }
func (c *testTime) pass(d time.Duration)      { c.wall.Add(int64(d)); c.elapsed.Add(int64(d)) }
func (c *testTime) setWall(years int)         { c.wall.Store(c.now().AddDate(years, 0, 0).UnixNano()) }
func (c *testTime) options(o Options) Options { o.Now, o.elapsed = c.now, c.sinceBoot; return o }
func keeping(n Retention) func(Retention) Retention {
	return func(Retention) Retention { return n }
}

// settles writes something new to a volume, and settles it.
func (r *rig) settles(v *Volume, seed uint64) {
	r.t.Helper()
	r.write(v, randomBytes(seed, 4096), int64(seed%16)*4096)
	must(r.t, r.s.Settle(r.t.Context()))
}

func stateNames(t *testing.T, s *Store, volume string) []string {
	t.Helper()
	list, err := s.History(volume)
	must(t, err)
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// States are kept from the first policy on, thinned as they are made, and are there after a crash
// that comes later than the file is written.
func TestHistory(t *testing.T) {
	clocks := newTestTime()
	r := newRig(t, clocks.options(Options{}))
	v := r.volume("a", 1<<20)
	r.settles(v, 1)
	if got := stateNames(t, r.s, "a"); got != nil {
		t.Errorf("states without a policy: %v", got)
	}
	if r.s.sb.current.Load().Features.Has(refs.NewFeatures(refs.Policy)) {
		t.Error("the feature is set before it is used")
	}
	i, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 3, KeepHourly: 2}))
	must(t, err)
	if i.Policy == nil || i.Policy.KeepHourly != 2 || !r.s.sb.current.Load().Features.Has(refs.NewFeatures(refs.Policy)) {
		t.Errorf("policy %+v", i.Policy)
	}
	for seed := range uint64(6) { // two states an hour
		r.settles(v, 2+seed)
		clocks.pass(30 * time.Minute)
	}
	want := []string{"{5}", "{6}", "{7}"} // of 10 to 13 h: the last 3, of which {7} and {5} are the newest of hours
	if got := stateNames(t, r.s, "a"); !slices.Equal(got, want) {
		t.Errorf("states %v, want %v", got, want)
	}
	r.settles(v, 7) // nothing new
	if got := stateNames(t, r.s, "a"); !slices.Equal(got, want) {
		t.Errorf("states %v after the same was written again, want %v", got, want)
	}

	// A state is read, cloned and rolled back to by its name, and is not deleted as a snapshot is.
	view, err := r.s.OpenSnapshot("a", "{5}")
	must(t, err)
	got := make([]byte, 4096)
	_, err = view.ReadAt(got, 5*4096)
	must(t, err)
	if !slices.Equal(got, randomBytes(5, 4096)) || view.Root() == "" {
		t.Error("the state holds other bytes")
	}
	must(t, view.Close())
	_, err = r.s.CloneVolume(t.Context(), "a", "{5}", "clone")
	must(t, err)
	c := r.volume("clone", 0)
	_, err = c.ReadAt(got, 6*4096)
	must(t, err)
	if slices.Equal(got, randomBytes(6, 4096)) {
		t.Error("the clone has what was written later")
	}
	if err := r.s.DeleteSnapshot(t.Context(), "a", "{5}"); !errors.Is(err, ErrInvalid) {
		t.Errorf("delete a state: %v", err)
	}
	for _, name := range []string{"{4}", "{05}", "{}", "{-5}", "{5", "5"} {
		if _, err := r.s.OpenSnapshot("a", name); !errors.Is(err, ErrNotFound) {
			t.Errorf("open %s: %v", name, err)
		}
		if _, err := r.s.CreateSnapshot(t.Context(), "a", name); !errors.Is(err, ErrInvalid) && name != "5" {
			t.Errorf("create a snapshot %s: %v", name, err)
		}
	}
	must(t, v.Close())
	_, err = r.s.RollbackVolume(t.Context(), "a", "{5}", RollbackOptions{NoSnapshot: true})
	must(t, err)
	names := stateNames(t, r.s, "a")
	if !slices.Contains(names, "{5}") && !slices.Contains(names, "{7}") {
		t.Errorf("states after a rollback: %v", names)
	}
	r.s.saveHistory()
	for _, how := range []string{"killed", "power cut", "closed"} {
		r.end(how)
		r.open(nil)
		if got := stateNames(t, r.s, "a"); !slices.Equal(got, names) {
			t.Errorf("%s: states %v, want %v", how, got, names)
		}
		r.undamaged(how)
	}
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "5")) // which is no state
	must(t, r.s.DeleteVolume(t.Context(), "a"))
	if n := len(r.s.catalog.past.volumes); n != 0 {
		t.Errorf("%d volumes have a history; the only one is deleted", n)
	}
}

// A resize keeps the generation of the volume, and a state its name, size and content: of a volume
// that shrinks it has what is cut off. The new size is in the next state.
func TestHistoryOfResizedVolume(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.settles(v, 1)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 9}))
	must(t, err)
	for _, size := range []int64{2 << 20, 4 << 20, 1 << 20, 64 << 10} {
		if size == 1<<20 {
			must(t, v.Close())
		}
		_, err := r.s.ResizeVolume(t.Context(), "a", size, ResizeOptions{Shrink: true})
		must(t, err)
	}
	r.settles(r.volume("a", 0), 2)
	list, err := r.s.History("a")
	must(t, err)
	if len(list) < 2 || list[0].Size != 1<<20 || list[len(list)-1].Size != 64<<10 {
		t.Errorf("states %+v", list)
	}
	names := stateNames(t, r.s, "a")
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			t.Errorf("two states have one name: %v", names)
		}
	}
	r.s.saveHistory()
	r.end("closed")
	r.open(nil)
	if got := stateNames(t, r.s, "a"); !slices.Equal(got, names) {
		t.Errorf("states %v after an opening, want %v", got, names)
	}
	r.undamaged("resized")
}

// What a policy drops is a root as long as an opening may find it in the file.
func TestHistoryRoots(t *testing.T) {
	r := newRig(t, newTestTime().options(Options{})) // time stands still: only the test saves
	v := r.volume("a", 1<<20)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 1}))
	must(t, err)
	has := func(root string) bool {
		found := false
		r.s.catalog.past.roots(func(h merkle.Hash, _ int64) { found = found || h.String() == root })
		return found
	}
	r.settles(v, 1)
	list, err := r.s.History("a")
	must(t, err)
	first := list[0].Root
	r.s.saveHistory()
	r.settles(v, 2)
	if got := stateNames(t, r.s, "a"); len(got) != 1 || !has(first) {
		t.Errorf("states %v; the dropped one is a root: %v, want true until the file is saved", got, has(first))
	}
	failed := errors.New("the disk fails")
	r.s.catalog.past.fs = vfs.Inject(r.mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpSyncDir {
			return failed
		}
		return nil
	})
	if err := r.s.catalog.past.save(); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if !has(first) {
		t.Error("the state is no root any more, though the file of before may be there after a power cut")
	}
	r.s.catalog.past.fs = r.mem
	must(t, r.s.catalog.past.save())
	if has(first) {
		t.Error("the state is still a root when the file without it is durable")
	}
}

// Damage to the history costs states, says so, and endangers nothing.
func TestDamagedHistory(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 5}))
	must(t, err)
	for seed := range uint64(3) {
		r.settles(v, 1+seed)
	}
	want := stateNames(t, r.s, "a")
	r.end("closed")
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		left   []string
		losses int
	}{
		"a state":         {func(b []byte) []byte { b[past.HeaderSize+past.StateSize+40] ^= 1; return b }, []string{want[0], want[2]}, 1},
		"the header":      {func(b []byte) []byte { b[20] ^= 1; return b }, want, 1},
		"the end":         {func(b []byte) []byte { return b[:len(b)-1] }, want[:2], 1},
		"everything":      {func([]byte) []byte { return []byte("nothing of the kind") }, nil, 1},
		"an empty file":   {func([]byte) []byte { return nil }, nil, 1},
		"no file":         {nil, nil, 0},
		"nothing at all ": {func(b []byte) []byte { return b }, want, 0},
	} {
		mem := r.mem.Kill()
		b := disktest.ReadFile(t, mem, past.File)
		must(t, mem.Remove(past.File))
		if c.damage != nil {
			f, err := mem.Create(past.File)
			must(t, err)
			_, err = f.WriteAt(c.damage(b), 0)
			must(t, err)
			must(t, f.Close())
		}
		damaged := *r
		must(t, damaged.reopened(mem, "boot"))
		if got := stateNames(t, damaged.s, "a"); !slices.Equal(got, c.left) || len(damaged.s.losses) != c.losses {
			t.Errorf("damage to %s: states %v, want %v; reported %v", name, got, c.left, damaged.s.losses)
		}
		v := damaged.volume("a", 1<<20)
		damaged.settles(v, 9)
		if got := stateNames(t, damaged.s, "a"); len(got) != len(c.left)+1 {
			t.Errorf("damage to %s: states %v after one more", name, got)
		}
		must(t, damaged.s.Close())
		must(t, damaged.reopened(damaged.mem, "boot"))
		damaged.undamaged("opened once more after damage to " + name)
		must(t, damaged.s.Close())
	}
}

// A wall clock that jumps by a year and back, while the store is open and across openings, loses
// nothing that the policy keeps: states and automatic snapshots stay in order, and hours are hours
// that have passed.
func TestHistoryWithoutClock(t *testing.T) {
	clocks := newTestTime()
	r := newRig(t, clocks.options(Options{}))
	v := r.volume("a", 1<<20)
	const hours = 30
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 2, KeepHourly: hours, SnapshotEvery: 600}))
	must(t, err)
	var states, snaps []string
	for hour := range hours {
		for range 3 {
			r.settles(v, uint64(1000+len(snaps)))
			if due := r.s.SnapshotsDue(); len(due) != 1 {
				t.Fatalf("hour %d: due %v", hour, due)
			}
			sn, err := r.s.CreateAutomatic(t.Context(), "a")
			must(t, err)
			snaps = append(snaps, sn.Name)
			clocks.pass(20 * time.Minute)
		}
		names := stateNames(t, r.s, "a")
		states = append(states, names[len(names)-1]) // the hour's newest
		clocks.setWall([]int{1, -1, -1, 1}[hour%4])
		if hour%7 == 6 {
			must(t, v.Close())
			r.end("closed")
			r.open(nil)
			v = r.volume("a", 1<<20)
		}
	}
	got := stateNames(t, r.s, "a")
	for _, name := range states {
		if !slices.Contains(got, name) {
			t.Errorf("state %s, the newest of its hour, is lost; there are %v", name, got)
		}
	}
	_, drop, err := r.s.Prunable("a")
	must(t, err)
	var dropped []string
	for _, sn := range drop {
		dropped = append(dropped, sn.Name)
	}
	for i := 2; i < len(snaps); i += 3 {
		if slices.Contains(dropped, snaps[i]) {
			t.Errorf("snapshot %s, the newest of its hour, would be pruned", snaps[i])
		}
	}
	if len(dropped) < hours {
		t.Errorf("%d of %d snapshots would be pruned", len(dropped), len(snaps))
	}
}

// Snapshots are due when their time has passed and something has changed; what somebody asked for
// is not pruned.
func TestAutomaticSnapshots(t *testing.T) {
	clocks := newTestTime()
	r := newRig(t, clocks.options(Options{}))
	v := r.volume("a", 1<<20)
	r.volume("b", 1<<20)
	due := func(want bool, when string) {
		t.Helper()
		if got := r.s.SnapshotsDue(); (len(got) == 1) != want {
			t.Errorf("%s: due %v, want %v", when, got, want)
		}
	}
	due(false, "no policy")
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 2, SnapshotEvery: 900}))
	must(t, err)
	due(true, "first")
	make1 := func() string {
		t.Helper()
		i, err := r.s.CreateAutomatic(t.Context(), "a")
		must(t, err)
		if !i.Automatic {
			t.Errorf("snapshot %+v", i)
		}
		return i.Name
	}
	if name := make1(); name != "auto-20261128T100000Z" {
		t.Errorf("it is called %s", name)
	}
	due(false, "just made")
	r.write(v, randomBytes(1, 4096), 0)
	clocks.pass(899 * time.Second)
	due(false, "a second before")
	clocks.pass(time.Second)
	due(true, "changed")
	make1()
	clocks.pass(900 * time.Second)
	due(false, "nothing has changed")
	r.write(v, randomBytes(2, 4096), 0)
	due(false, "its turn has passed")
	clocks.pass(900 * time.Second)
	due(true, "its next turn")
	_, err = r.s.CreateSnapshot(t.Context(), "a", "auto-mine")
	must(t, err)
	make1()
	clocks.setWall(0)
	second := make1() // at the same second
	if second != "auto-20261128T104500Z-2" {
		t.Errorf("the second one of a second is called %s", second)
	}
	must(t, r.s.Settle(t.Context()))
	r.write(v, randomBytes(2, 4096), 0) // the same again
	must(t, r.s.Settle(t.Context()))
	clocks.pass(900 * time.Second)
	due(false, "the same was written again")

	check := func(when string) {
		t.Helper()
		_, drop, err := r.s.Prunable("")
		must(t, err)
		if len(drop) != 2 || drop[0].Name != "auto-20261128T100000Z" || drop[1].Name != "auto-20261128T101500Z" {
			t.Errorf("%s: to be pruned %+v", when, drop)
		}
	}
	check("made")
	must(t, r.s.catalog.append(t.Context(), padded(2<<20)))
	must(t, v.Close())
	r.end("closed")
	r.open(nil) // compacts
	check("compacted")
	_, err = r.s.SetRetention(t.Context(), "a", keeping(Retention{}))
	must(t, err)
	if _, drop, err := r.s.Prunable("a"); err != nil || len(drop) != 0 {
		t.Errorf("without a policy %v, %v would be pruned", drop, err)
	}
}

// A policy that is made smaller drops nothing by itself: prune does, and says before what.
func TestPruneHistory(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 5}))
	must(t, err)
	for seed := range uint64(5) {
		r.settles(v, 1+seed)
	}
	_, err = r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 2}))
	must(t, err)
	states, _, err := r.s.Prunable("a")
	must(t, err)
	if n := len(stateNames(t, r.s, "a")); n != 5 || len(states) != 3 {
		t.Errorf("%d states, of which %d would be dropped", n, len(states))
	}
	gone, err := r.s.PruneHistory(t.Context(), "a")
	must(t, err)
	if got := stateNames(t, r.s, "a"); len(gone) != 3 || len(got) != 2 || !slices.Equal(gone, states) {
		t.Errorf("dropped %v, left %v", gone, got)
	}
	if _, err := r.s.PruneHistory(t.Context(), "nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("prune a volume that is not there: %v", err)
	}
	_, err = r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: -1}))
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("a policy that makes no sense: %v", err)
	}
	_, err = r.s.SetRetention(t.Context(), "a", keeping(Retention{}))
	must(t, err)
	r.settles(v, 9)
	if got := stateNames(t, r.s, "a"); len(got) != 0 {
		t.Errorf("states without a policy: %v", got)
	}
	r.s.saveHistory()
	if b := disktest.ReadFile(t, r.mem, past.File); len(b) != past.HeaderSize {
		t.Errorf("the file has %d bytes", len(b))
	}
}

// A file of states that can't be replaced is said once, however often that is tried, and so is its
// end.
func TestHistoryNotSavedIsSaidOnce(t *testing.T) {
	var log logBuffer
	o := newTestTime().options(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	r := newRig(t, o) // time stands still: only the test saves
	v := r.volume("a", 1<<20)
	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{KeepLast: 9}))
	must(t, err)
	must(t, v.Close())
	r.end("closed")
	var full atomic.Bool
	r.open(func(op vfs.Op) error {
		if full.Load() && strings.HasPrefix(op.Name, past.File) {
			return syscall.ENOSPC
		}
		return nil
	})
	v = r.volume("a", 0)
	full.Store(true)
	r.settles(v, 1)
	for range 5 {
		r.s.saveHistory()
	}
	full.Store(false)
	for range 3 {
		r.s.saveHistory()
	}
	for _, line := range []string{"the history of volumes was not saved", "the history of volumes was saved again"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%q is in the log %d times", line, n)
		}
	}
}
