package objstore

import (
	"errors"
	"sync"
	"testing"

	"varve/objstore/internal/refs"
)

// A volume and a snapshot get new names while they are open, and keep them after an opening; what
// is made under the old names is new.
func TestRename(t *testing.T) {
	s, dir, old, now := scratchWorld(t)
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	view, err := s.OpenSnapshot("a", "one")
	must(t, err)
	before, err := s.VolumeInfo("a")
	must(t, err)
	scratch, err := s.CreateScratch(t.Context(), "a", "one")
	must(t, err)
	info, err := s.RenameVolume(t.Context(), "a", "b")
	must(t, err)
	if info.Name != "b" || info.ID != before.ID || a.Name() != "b" {
		t.Errorf("the volume is %+v, and calls itself %s", info, a.Name())
	}
	sn, err := s.RenameSnapshot(t.Context(), "b", "one", "two")
	must(t, err)
	if sn.Volume != "b" || sn.Name != "two" {
		t.Errorf("the snapshot is %+v", sn)
	}
	wantRead(t, a, 4096, now)
	wantRead(t, view, 4096, old)
	mine := randomBytes(4, 4096)
	_, err = a.WriteAt(mine, 0)
	must(t, err)
	if _, err := s.OpenVolume("a", "test"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name opens: %v", err)
	}
	if _, err := s.OpenSnapshot("b", "one"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name of the snapshot opens: %v", err)
	}
	_, err = s.CreateVolume(t.Context(), "a", VolumeOptions{Size: 1 << 20})
	must(t, err)
	must(t, a.Close())
	must(t, view.Close())
	check := func() {
		t.Helper()
		wantHeld(t, s, "b", 0, mine)
		wantHeld(t, s, "b", 4096, now)
		wantHeld(t, s, "a", 0, make([]byte, 1<<20))
		view, err := s.OpenSnapshot("b", "two")
		must(t, err)
		wantRead(t, view, 4096, old)
		must(t, view.Close())
		if got, err := s.VolumeInfo(scratch.Name); err != nil || got.Of != "b@two" {
			t.Errorf("the scratch volume is of %q, %v", got.Of, err)
		}
		if got, err := s.VolumeByID(before.ID); err != nil || got.Name != "b" {
			t.Errorf("the volume's ID is %q, %v", got.Name, err)
		}
	}
	check()
	must(t, s.Close())
	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	check()
	must(t, s.Close())
}

// The marks of devices are made of a name that is no other volume's, however often names change
// hands, and that never changes, after an opening and a compaction neither.
func TestMarkNames(t *testing.T) {
	s, dir, _, _ := scratchWorld(t)
	marks := map[string]string{} // ID -> mark name
	check := func() {
		t.Helper()
		seen := map[string]string{}
		for _, v := range s.Volumes() {
			if was, ok := marks[v.ID]; ok && was != v.MarkName {
				t.Errorf("volume %s had mark name %q, and has %q", v.Name, was, v.MarkName)
			}
			if other, taken := seen[v.MarkName]; taken {
				t.Errorf("volumes %s and %s share the mark name %q", v.Name, other, v.MarkName)
			}
			marks[v.ID], seen[v.MarkName] = v.MarkName, v.Name
		}
	}
	rename := func(from, to string) {
		t.Helper()
		_, err := s.RenameVolume(t.Context(), from, to)
		must(t, err)
		check()
	}
	check()
	rename("a", "b")
	_, err := s.CreateVolume(t.Context(), "a", VolumeOptions{Size: 1 << 20})
	must(t, err)
	check()
	rename("a", "c")
	_, err = s.CloneVolume(t.Context(), "b", "one", "a")
	must(t, err)
	check()
	rename("b", "d")
	rename("a", "b")
	rename("d", "a") // the first one, which is called as in the beginning
	if v, err := s.VolumeInfo("a"); err != nil || v.MarkName != "a" {
		t.Errorf("volume a has mark name %q, %v", v.MarkName, err)
	}
	must(t, s.Close())
	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	check()
	again := refs.NewState(4096)
	for rec := range s.catalog.refs.Records {
		must(t, again.Apply(&rec))
	}
	for id, v := range s.catalog.refs.ByID {
		if got := again.ByID[id]; got.MarkName() != v.MarkName() || got.Name != v.Name {
			t.Errorf("a compacted log calls %s %s, with mark name %q; want %q", v.Name, got.Name, got.MarkName(), v.MarkName())
		}
	}
	must(t, s.Close())
}

func TestRenameRefused(t *testing.T) {
	s, _, _, _ := scratchWorld(t)
	defer s.Close()
	scratch, err := s.CreateScratch(t.Context(), "a", "one")
	must(t, err)
	_, err = s.CreateVolume(t.Context(), "b", VolumeOptions{Size: 1 << 20})
	must(t, err)
	a, err := s.VolumeInfo("a")
	must(t, err)
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{"a", "b", ErrExists},
		{"c", "d", ErrNotFound},
		{"a", "c/d", ErrInvalid},
		{"a", "scratch-" + a.ID, ErrInvalid}, // it would be dropped as one
		{scratch.Name, "c", ErrInvalid},
		{"a", "a", nil},
	} {
		if _, err := s.RenameVolume(t.Context(), c.from, c.to); !errors.Is(err, c.want) {
			t.Errorf("rename %s to %s: %v, want %v", c.from, c.to, err, c.want)
		}
	}
	_, err = s.CreateSnapshot(t.Context(), "a", "two")
	must(t, err)
	for _, c := range []struct {
		from, to string
		want     error
	}{{"one", "two", ErrExists}, {"three", "four", ErrNotFound}, {"one", "a@b", ErrInvalid}, {"one", "one", nil}} {
		if _, err := s.RenameSnapshot(t.Context(), "a", c.from, c.to); !errors.Is(err, c.want) {
			t.Errorf("rename snapshot %s to %s: %v, want %v", c.from, c.to, err, c.want)
		}
	}
}

// Names change beside everything that reads them.
func TestRenameBesideUse(t *testing.T) {
	s, _, _, now := scratchWorld(t)
	defer s.Close()
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			got := make([]byte, 4096)
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if _, err := a.WriteAt(now[:4096], int64(i%100)*4096+8<<20); err != nil {
					t.Error(err)
					return
				}
				if _, err := a.ReadAt(got, 4096); err != nil || string(got) != string(now[:4096]) {
					t.Errorf("read beside a rename: %v", err)
					return
				}
				_, _ = a.ReadAt(got, 1<<40) // its error has the name
				_, _ = s.Snapshots("")
			}
		})
	}
	names := []string{"a", "b"}
	for i := range 40 {
		_, err := s.RenameVolume(t.Context(), names[i%2], names[(i+1)%2])
		must(t, err)
		_, err = s.RenameSnapshot(t.Context(), names[(i+1)%2], []string{"one", "two"}[i%2], []string{"two", "one"}[i%2])
		must(t, err)
		if i%10 == 0 {
			must(t, s.Settle(t.Context()))
		}
	}
	close(done)
	wg.Wait()
	must(t, a.Close())
}
