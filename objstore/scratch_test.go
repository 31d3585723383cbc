package objstore

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// scratchWorld is a store with a volume "a" that holds data, and has a snapshot of that before
// other data.
func scratchWorld(t *testing.T) (s *Store, dir string, old, now []byte) {
	t.Helper()
	dir = t.TempDir()
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	_, err := s.CreateVolume(t.Context(), "a", VolumeOptions{Size: 16 << 20, BlockSize: 4096, Verify: true})
	must(t, err)
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	old, now = randomBytes(1, 1<<20), randomBytes(2, 1<<20)
	_, err = a.WriteAt(old, 4096)
	must(t, err)
	_, err = s.CreateSnapshot(t.Context(), "a", "one")
	must(t, err)
	_, err = a.WriteAt(now, 4096)
	must(t, err)
	must(t, a.Close())
	return s, dir, old, now
}

// A scratch volume reads as its snapshot and takes writes, which neither the snapshot nor the
// volume sees. It outlives the process and the snapshot, is in no list, and leaves nothing when it
// is deleted.
func TestScratchVolume(t *testing.T) {
	s, dir, old, now := scratchWorld(t)
	info, err := s.CreateScratch(t.Context(), "a", "one")
	must(t, err)
	if info.Of != "a@one" || info.BlockSize != 4096 || !info.Verify || info.Size != 16<<20 {
		t.Errorf("scratch volume is %+v", info)
	}
	w, err := s.OpenVolume(info.Name, "test")
	must(t, err)
	wantRead(t, w, 4096, old)
	mine := randomBytes(3, 10000)
	_, err = w.WriteAt(mine, 8192)
	must(t, err)
	want := slices.Clone(old)
	copy(want[4096:], mine)
	check := func(w *Volume) {
		t.Helper()
		wantRead(t, w, 4096, want)
		a, err := s.OpenVolume("a", "test")
		must(t, err)
		wantRead(t, a, 4096, now)
		must(t, a.Close())
	}
	check(w)
	view, err := s.OpenSnapshot("a", "one")
	must(t, err)
	wantRead(t, view, 4096, old)
	must(t, view.Close())
	wantScratchHidden(t, s, info.Name)
	must(t, w.Close())
	must(t, s.Settle(t.Context()))
	wantScratchHidden(t, s, info.Name)

	must(t, s.Close())
	s = openTest(t, dir, Options{SettleDelay: -1, SegmentSize: 8 << 20})
	if list := s.ScratchVolumes(); len(list) != 1 || list[0].Name != info.Name || list[0].Of != "a@one" {
		t.Fatalf("scratch volumes of the opened store: %+v", list)
	}
	w, err = s.OpenVolume(info.Name, "test")
	must(t, err)
	must(t, s.DeleteSnapshot(t.Context(), "a", "one"))
	check(w)
	must(t, w.Close())

	must(t, s.DeleteVolume(t.Context(), info.Name))
	if list := s.ScratchVolumes(); len(list) != 0 {
		t.Errorf("scratch volumes after the last was deleted: %+v", list)
	}
	left, err := filepath.Glob(filepath.Join(dir, journal.Dir, info.ID+"*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("journals of a deleted scratch volume: %q", left)
	}
	must(t, s.Close())
}

// wantScratchHidden fails if a scratch volume is where only ordinary volumes belong.
func wantScratchHidden(t *testing.T, s *Store, name string) {
	t.Helper()
	if list := s.Volumes(); len(list) != 1 || list[0].Name != "a" {
		t.Errorf("volumes are %+v, want a alone", list)
	}
	st, err := s.Stat()
	must(t, err)
	if st.Volumes != 1 || st.Snapshots != 1 {
		t.Errorf("stat counts %d volumes and %d snapshots, want 1 of each", st.Volumes, st.Snapshots)
	}
	info, err := s.VolumeInfo(name)
	must(t, err)
	one, err := s.Snapshots("a")
	must(t, err)
	if info.Root != one[0].Root && slices.Contains(s.Roots(), info.Root) {
		t.Errorf("the root of a scratch volume is listed")
	}
}

// What a scratch volume can't be made of, and what can't be made of it.
func TestScratchVolumeRefused(t *testing.T) {
	s, _, _, _ := scratchWorld(t)
	defer s.Close()
	_, err := s.CreateScratch(t.Context(), "a", "two")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("scratch volume over no snapshot: %v", err)
	}
	info, err := s.CreateScratch(t.Context(), "a", "one")
	must(t, err)
	if _, err := s.CreateSnapshot(t.Context(), info.Name, "one"); !errors.Is(err, ErrInvalid) {
		t.Errorf("snapshot of a scratch volume: %v", err)
	}
	// A volume that somebody has called like one is none: it is never in danger of being swept.
	v, err := s.CreateVolume(t.Context(), refs.ScratchName(uuid.New()), VolumeOptions{Size: 1 << 20})
	must(t, err)
	if list := s.ScratchVolumes(); len(list) != 1 || list[0].Name != info.Name {
		t.Errorf("scratch volumes are %+v, want %s alone", list, info.Name)
	}
	if list := s.Volumes(); len(list) != 2 || list[1].Name != v.Name {
		t.Errorf("volumes are %+v, want %s among them", list, v.Name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a, err := s.OpenVolume("a", "test")
	must(t, err)
	_, err = a.WriteAt(randomBytes(9, 1<<20), 0)
	must(t, err)
	must(t, a.Close())
	_, err = s.CreateSnapshot(t.Context(), "a", "late")
	must(t, err)
	if _, err := s.CreateScratch(ctx, "a", "late"); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("scratch volume over a snapshot that does not settle in time: %v", err)
	}
}

// Of a scratch volume refs say nothing that a varve from before it would not take: the frame
// decodes by the fields of then, and the name is one that its lists of devices take.
func TestScratchVolumeInOldRefs(t *testing.T) {
	s, dir, _, _ := scratchWorld(t)
	info, err := s.CreateScratch(t.Context(), "a", "one")
	must(t, err)
	must(t, CheckName("volume", info.Name))
	must(t, s.Close())
	r := refs.NewState(disk.MaxChunkSize)
	l, err := record.Open(t.Context(), vfs.OS(dir), refs.LogFiles, refs.LogID(s.sb.ID), false, func(payload []byte) error {
		var before []struct {
			Op            string
			ID            uuid.UUID
			Name, Root    string
			Gen           uint64
			Size, Logical int64
			BlockSize     int `json:"block_size"`
			Verify        bool
			Time          json.RawMessage
			Dirs          map[uint32]int64
		}
		if err := json.Unmarshal(payload, &before); err != nil {
			return err
		}
		again, err := json.Marshal(before)
		if err != nil {
			return err
		}
		var recs []refs.Record
		if err := json.Unmarshal(again, &recs); err != nil {
			return err
		}
		for i := range recs {
			if err := r.Apply(&recs[i]); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	must(t, l.Close())
	v := r.Volumes[info.Name]
	if v == nil || v.Root.String() != info.Root || !v.Scratch() || v.Of != "" {
		t.Errorf("by the old fields the scratch volume is %+v, want one with root %s", v, info.Root)
	}
}
