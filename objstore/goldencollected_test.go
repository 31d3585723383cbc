package objstore

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// TestMakeCollectedStore makes of a store in the directory that VARVE_MAKE_STORE names what a killed
// collection has left. testdata/stores/make runs it behind TestMakeStore at commits that have one.
func TestMakeCollectedStore(t *testing.T) {
	dir := os.Getenv("VARVE_MAKE_STORE")
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "store")
		makeStore(t, dir)
	}
	killCollection(t, dir)
}

// killCollection leaves a store as it is when a collection was killed that had retired a segment and
// not unlinked it yet, and had shortened the object list of another one and not punched it yet. The
// store has a volume more, half, which is written in its second half.
func killCollection(t *testing.T, dir string) {
	t.Helper()
	ctx := context.Background()
	open := func() *Store {
		s, err := Open(ctx, dir, Options{SegmentSize: 4<<20 + 4096, SettleDelay: -1})
		must(t, err)
		return s
	}
	s := open()
	write := func(name string, seq uint64) *Volume {
		_, err := s.CreateVolume(ctx, name, VolumeOptions{Size: 512 << 10})
		must(t, err)
		v, err := s.OpenVolume(name, "test")
		must(t, err)
		_, err = v.WriteAt(madeBytes(seq, 0, 512<<10), 0)
		must(t, err)
		return v
	}
	dead, half := write("dead", 7), write("half", 8)
	must(t, s.Settle(ctx))
	must(t, half.Zero(0, 256<<10))
	must(t, s.Settle(ctx))
	must(t, dead.Close())
	must(t, half.Close())
	must(t, s.Close())

	s = open() // what was appended to is sealed
	must(t, s.DeleteVolume(ctx, "dead"))
	live := reachable(t, s)
	alive := func(h *merkle.Hash) bool { return live[*h] }
	var retired, shortened *segment.File
	limits := segment.HoleLimits{Shortest: disk.BlockSize}
	for _, g := range sealedSegments(s) {
		found, err := new(segment.Surveyor).Survey(g, alive, limits)
		must(t, err)
		switch {
		case found.AllDead():
			retired = g
		case len(found.Dead) >= 64:
			shortened = g
		}
	}
	if retired == nil || shortened == nil {
		t.Fatalf("no segment is dead (%v), or in none is a half", retired)
	}
	must(t, s.catalog.retire(ctx, []uint32{retired.ID}, &s.segments))
	found, err := new(segment.Surveyor).Survey(shortened, alive, limits)
	must(t, err)
	must(t, shortened.Shrink(s.fs, s.sb.ID, found, alive, limits))
	must(t, s.Close()) // leaves what is not sealed to the next opening
}
