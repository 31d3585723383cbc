package refs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/merkle"
)

// A snapshot keeps the size that its volume had, however often the volume is resized and the log is
// compacted.
func TestSnapshotsKeepTheirSize(t *testing.T) {
	s := NewState(chunkSize)
	apply := func(recs ...Record) {
		t.Helper()
		for i := range recs {
			recs[i].ID = disktest.Volume
			must(t, s.Apply(&recs[i]))
		}
	}
	zeroes := func(size int64) string {
		root := merkle.EmptyRoot(size, chunkSize)
		return root.Hash().String()
	}
	apply(
		Record{Op: OpVolume, Name: "vol", Size: 1 << 20, BlockSize: 512},
		Record{Op: OpSnapshot, Name: "never-written", Root: zeroes(1 << 20)},
		Record{Op: OpResize, Size: 4 << 20}, // nothing has settled: no root
		Record{Op: OpSnapshot, Name: "grown", Gen: 1},
		Record{Op: OpSnapshot, Name: "grown", Gen: 1, Root: goldenHash(1).String()},
		Record{Op: OpResize, Gen: 2, Size: 2 << 20, Root: goldenHash(2).String(), Logical: 5},
		Record{Op: OpSnapshot, Name: "shrunk", Gen: 2, Root: goldenHash(2).String(), Logical: 5},
	)
	check := func(s *State) {
		t.Helper()
		v := s.Volumes["vol"]
		if v.Size != 2<<20 || v.Gen != 2 || v.Root != goldenHash(2) || v.Logical != 5 {
			t.Errorf("volume %+v", v)
		}
		for name, want := range map[string]int64{"never-written": 1 << 20, "grown": 4 << 20, "shrunk": 2 << 20} {
			if sn := v.Snapshots[name]; sn.Size != want || s.Roots[sn.Root].Size != want {
				t.Errorf("snapshot %s has %d bytes, and its root %d; want %d", name, sn.Size, s.Roots[sn.Root].Size, want)
			}
		}
		if len(s.Roots) != 3 {
			t.Errorf("roots %v", s.Roots)
		}
	}
	check(s)
	again := NewState(chunkSize)
	for rec := range s.Records {
		if rec.Op == OpSnapshot && (rec.Size != 0) != (rec.Name != "shrunk") {
			t.Errorf("compacted to %+v", rec)
		}
		must(t, again.Apply(&rec))
	}
	check(again)
}

func TestResizeIsChecked(t *testing.T) {
	s := NewState(chunkSize)
	must(t, s.Apply(&Record{Op: OpVolume, ID: disktest.Volume, Name: "vol", Size: 1 << 20, BlockSize: 4096}))
	must(t, s.Apply(&Record{Op: OpHead, ID: disktest.Volume, Gen: 3, Root: goldenHash(1).String()}))
	before := fmt.Sprintf("%+v", *s.Volumes["vol"])
	for _, size := range []int64{0, -4096, 512, disk.MaxVolumeSize + 4096} {
		err := s.Apply(&Record{Op: OpResize, ID: disktest.Volume, Gen: 3, Size: size})
		if !errors.Is(err, disk.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprint(size)) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if err := s.Apply(&Record{Op: OpResize, ID: disktest.Volume, Gen: 2, Size: 4096}); err == nil {
		t.Error("a generation went back")
	}
	if after := fmt.Sprintf("%+v", *s.Volumes["vol"]); after != before {
		t.Errorf("%s becomes %s", before, after)
	}
}

// A varve from before sizes change refuses a store with records that it would misread.
func TestRecordsThatNeedAFeature(t *testing.T) {
	for _, c := range []struct {
		rec  Record
		want Features
	}{
		{Record{Op: OpResize, Size: 4096}, NewFeatures(Resize)},
		{Record{Op: OpSnapshot, Name: "s", Size: 4096}, NewFeatures(Resize)},
		{Record{Op: OpSnapshot, Name: "s"}, Features{}},
		{Record{Op: OpVolume, Size: 4096}, Features{}},
		{Record{Op: OpLimits, Quota: 4096}, NewFeatures(Quota)},
	} {
		if got := Needed([]Record{{Op: OpVerify}, c.rec}); got != c.want {
			t.Errorf("%+v needs %v", c.rec, got.Names())
		}
	}
}

// What was said of a retired segment's object log does not count any more, whatever was written
// before; the segment is remembered until its file is gone.
func TestRetired(t *testing.T) {
	s := NewState(chunkSize)
	must(t, s.Apply(&Record{Op: OpSegments, Gen: 9, ObjectLogs: map[uint32]int64{7: 512, 8: 512}}))
	rec := Record{Op: OpRetired, Retired: []uint32{7, 3}}
	must(t, s.Apply(&rec))
	if !Needed([]Record{rec}).Has(NewFeatures(RetiredSegments)) {
		t.Error("the record needs no feature")
	}
	again := NewState(chunkSize)
	for rec := range s.Records {
		must(t, again.Apply(&rec))
	}
	for what, s := range map[string]*State{"applied": s, "compacted": again} {
		if len(s.ObjectLogs) != 1 || s.ObjectLogs[8] != 512 || len(s.Retired) != 2 || !s.Retired[3] || !s.Retired[7] {
			t.Errorf("%s: object logs %v, retired %v", what, s.ObjectLogs, s.Retired)
		}
	}
	s.Unlinked([]uint32{7, 3})
	for rec := range s.Records {
		if rec.Op == OpRetired {
			t.Errorf("%v is remembered after the files are gone", rec.Retired)
		}
	}
}
