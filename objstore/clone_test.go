package objstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// writeClosed writes p to a volume at off, and closes the volume.
func writeClosed(t *testing.T, s *Store, volume string, p []byte, off int64) {
	t.Helper()
	v, err := s.OpenVolume(volume, "test")
	must(t, err)
	_, err = v.WriteAt(p, off)
	must(t, err)
	must(t, v.Close())
}

// wantHeld fails unless a volume holds p at off.
func wantHeld(t *testing.T, s *Store, volume string, off int64, p []byte) {
	t.Helper()
	v, err := s.OpenVolume(volume, "test")
	must(t, err)
	wantRead(t, v, off, p)
	must(t, v.Close())
}

// A clone of a snapshot, and of a volume in use, holds what its origin held; both are deleted in
// either order, and what is left reads as before, after an opening too.
func TestClone(t *testing.T) {
	s, dir, old, now := scratchWorld(t)
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	info, err := s.CloneVolume(t.Context(), "a", "one", "of-snapshot")
	must(t, err)
	if info.Size != 16<<20 || info.BlockSize != 4096 || !info.Verify || info.Tail != 0 || info.Of != "" || info.Snapshots != 0 {
		t.Errorf("the clone is %+v", info)
	}
	_, err = s.CloneVolume(t.Context(), "a", "", "of-volume")
	must(t, err)
	mine := randomBytes(5, 8192)
	_, err = a.WriteAt(mine, 4096) // after the call: in no clone
	must(t, err)
	wantHeld(t, s, "of-snapshot", 4096, old)
	wantHeld(t, s, "of-volume", 4096, now)
	writeClosed(t, s, "of-volume", mine, 1<<20)
	if list, err := s.Snapshots("a"); err != nil || len(list) != 1 {
		t.Errorf("a clone of a volume has left a snapshot: %+v, %v", list, err)
	}
	must(t, a.Close())
	must(t, s.DeleteSnapshot(t.Context(), "a", "one"))
	must(t, s.DeleteVolume(t.Context(), "a"))
	must(t, s.Close())
	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	wantHeld(t, s, "of-snapshot", 4096, old)
	wantHeld(t, s, "of-volume", 1<<20, mine)
	if st, err := s.Stat(); err != nil || st.Volumes != 2 {
		t.Errorf("stat counts %d volumes, want 2: %v", st.Volumes, err)
	}
	must(t, s.DeleteVolume(t.Context(), "of-snapshot"))
	wantHeld(t, s, "of-volume", 4096, now[:1<<20-4096])
	must(t, s.Close())
}

func TestCloneRefused(t *testing.T) {
	s, _, _, _ := scratchWorld(t)
	defer s.Close()
	scratch, err := s.CreateScratch(t.Context(), "a", "one")
	must(t, err)
	for _, c := range []struct {
		volume, snap, name string
		want               error
	}{
		{"a", "one", "a", ErrExists},
		{"a", "", "a", ErrExists},
		{"a", "two", "b", ErrNotFound},
		{"b", "", "c", ErrNotFound},
		{"a", "one", "b/c", ErrInvalid},
		{scratch.Name, "", "b", ErrInvalid},
	} {
		if _, err := s.CloneVolume(t.Context(), c.volume, c.snap, c.name); !errors.Is(err, c.want) {
			t.Errorf("clone %s@%s as %s: %v, want %v", c.volume, c.snap, c.name, err, c.want)
		}
	}
}

// A hundred clones at once, each written and read at once: none fails, none sees another's data.
func TestHundredClones(t *testing.T) {
	s, _, old, _ := scratchWorld(t)
	defer s.Close()
	var wg sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wg.Go(func() {
			name := fmt.Sprintf("c%d", i)
			errs[i] = func() error {
				if _, err := s.CloneVolume(context.Background(), "a", "one", name); err != nil {
					return err
				}
				v, err := s.OpenVolume(name, "test")
				if err != nil {
					return err
				}
				defer v.Close()
				if _, err := v.WriteAt(randomBytes(uint64(i), 4096), 8192); err != nil {
					return err
				}
				want := slices.Clone(old)
				copy(want[4096:], randomBytes(uint64(i), 4096))
				got := make([]byte, len(want))
				if _, err := v.ReadAt(got, 4096); err != nil {
					return err
				}
				if !slices.Equal(got, want) {
					return errors.New("it reads other data")
				}
				return nil
			}()
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("clone %d: %v", i, err)
		}
	}
}

// A clone of a clone of a clone reads one tree, as deep as that of the first: it has no layers of
// another volume, and its base is a root of its own.
func TestCloneDepth(t *testing.T) {
	s, _, old, _ := scratchWorld(t)
	defer s.Close()
	const depth = 1000
	prev, snap := "a", "one"
	for i := range depth {
		name := fmt.Sprintf("d%d", i)
		_, err := s.CloneVolume(t.Context(), prev, snap, name)
		must(t, err)
		if i%100 == 0 { // some of the generations write
			writeClosed(t, s, name, randomBytes(uint64(i), 4096), 2<<20)
		}
		if prev != "a" {
			must(t, s.DeleteVolume(t.Context(), prev))
		}
		prev, snap = name, ""
	}
	first, err := s.CloneVolume(t.Context(), "a", "one", "first")
	must(t, err)
	deep, shallow := s.catalog.volumes[s.catalog.refs.Volumes[prev].ID], s.catalog.volumes[s.catalog.refs.Volumes[first.Name].ID]
	if deep.base.root.Depth != shallow.base.root.Depth || len(deep.layers) > 1 {
		t.Errorf("a clone of depth %d has a tree of depth %d and %d layers; at depth 1 a tree of depth %d",
			depth, deep.base.root.Depth, len(deep.layers), shallow.base.root.Depth)
	}
	wantHeld(t, s, prev, 4096, old)
	wantHeld(t, s, prev, 2<<20, randomBytes(900, 4096))
}
