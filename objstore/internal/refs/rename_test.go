package refs

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// secondVolume gets the name that the first one had.
var secondVolume = uuid.UUID{15: 2}

// renamedLog is a log in which a volume and its snapshot are renamed, and the old name is given
// again.
func renamedLog(t testing.TB) []byte {
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	must(t, Create(fs, disktest.Store))
	l, s, err := Open(t.Context(), fs, disktest.Store, chunkSize, quiet)
	must(t, err)
	at := time.Unix(1700000000, 0).UTC()
	frames := [][]Record{
		{{Op: OpVolume, ID: disktest.Volume, Name: "vol", Size: 10 << 30, BlockSize: 512, Time: at}},
		{{Op: OpSnapshot, ID: disktest.Volume, Name: "snap", Gen: 3, Root: goldenHash(0xb2).String(), Logical: 16384, Time: at}},
		{{Op: OpRename, ID: disktest.Volume, To: "moved"}},
		{{Op: OpSnapshotRename, ID: disktest.Volume, Name: "snap", To: "first"}},
		{{Op: OpVolume, ID: secondVolume, Name: "vol", Size: 10 << 30, BlockSize: 512, Time: at, Mark: secondVolume.String()}},
	}
	for _, recs := range frames {
		must(t, l.Append(recs))
		for i := range recs {
			must(t, s.Apply(&recs[i]))
		}
	}
	must(t, l.Close())
	return disktest.ReadFile(t, fs, LogFile)
}

func wantRenamed(t testing.TB, s *State) {
	t.Helper()
	moved, vol := s.Volumes["moved"], s.Volumes["vol"]
	if moved == nil || moved.ID != disktest.Volume || moved.MarkName() != "vol" || moved.Snapshots["first"] == nil || len(moved.Snapshots) != 1 {
		t.Errorf("the renamed volume is %+v", moved)
	}
	if vol == nil || vol.ID != secondVolume || vol.MarkName() != secondVolume.String() {
		t.Errorf("the volume with the old name is %+v", vol)
	}
	if s.MarkFor("vol", disktest.Store) != disktest.Store.String() || s.MarkFor("moved", disktest.Store) != "" {
		t.Error("a mark name is given twice, or without need")
	}
}

func TestRename(t *testing.T) {
	b := renamedLog(t)
	golden.Check(t, "log-renamed", b)
	s := NewState(chunkSize)
	_, err := record.Open(t.Context(), disktest.FS(t, LogFile, b), []string{LogFile}, LogID(disktest.Store), false, s.ApplyFrame)
	must(t, err)
	wantRenamed(t, s)
	again := NewState(chunkSize)
	for rec := range s.Records {
		if rec.Op == OpRename || rec.Op == OpSnapshotRename {
			t.Errorf("a compacted log has %+v", rec)
		}
		must(t, again.Apply(&rec))
	}
	wantRenamed(t, again)
}

func TestRenameRefused(t *testing.T) {
	s := NewState(chunkSize)
	for i, name := range []string{"a", "b", ScratchName(uuid.UUID{15: 3})} {
		must(t, s.Apply(&Record{Op: OpVolume, ID: uuid.UUID{15: byte(i + 1)}, Name: name, Size: 4096, BlockSize: 512}))
	}
	for _, c := range []struct {
		id   byte
		to   string
		want error
	}{
		{1, "b", ErrExists},
		{1, "a", ErrExists},
		{1, "", disk.ErrInvalid},
		{1, "x/y", disk.ErrInvalid},
		{1, ScratchName(uuid.UUID{15: 1}), disk.ErrInvalid},
		{3, "c", disk.ErrInvalid},
		{9, "c", ErrNotFound},
	} {
		if err := s.Apply(&Record{Op: OpRename, ID: uuid.UUID{15: c.id}, To: c.to}); !errors.Is(err, c.want) {
			t.Errorf("volume %d to %q: %v, want %v", c.id, c.to, err, c.want)
		}
	}
	if s.Volumes["a"].MarkName() != "a" || s.Volumes["a"].Mark != "" {
		t.Errorf("a refused renaming has changed %+v", s.Volumes["a"])
	}
	must(t, s.Apply(&Record{Op: OpSnapshot, ID: uuid.UUID{15: 1}, Name: "s", Gen: 1}))
	for _, c := range []struct {
		from, to string
		want     error
	}{{"s", "s", ErrExists}, {"t", "u", ErrNotFound}, {"s", "a@b", disk.ErrInvalid}} {
		if err := s.Apply(&Record{Op: OpSnapshotRename, ID: uuid.UUID{15: 1}, Name: c.from, To: c.to}); !errors.Is(err, c.want) {
			t.Errorf("snapshot %q to %q: %v, want %v", c.from, c.to, err, c.want)
		}
	}
}

// A rename makes the store need the feature, before it is written.
func TestRenameNeedsFeature(t *testing.T) {
	for _, op := range []Op{OpRename, OpSnapshotRename} {
		if got := Needed([]Record{{Op: OpHead}, {Op: op}}); !got.Has(NewFeatures(Rename)) {
			t.Errorf("%s needs %v", op, got.Names())
		}
	}
}
