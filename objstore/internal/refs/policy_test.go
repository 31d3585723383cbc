package refs

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
)

// goldenPolicy is the frames of a volume with a policy and an automatic snapshot.
func goldenPolicy(t testing.TB) []byte {
	at := time.Unix(1700000000, 0).UTC()
	var out []byte
	for _, frame := range [][]Record{
		{{Op: OpVolume, ID: disktest.Volume, Name: "vol", Size: 10 << 30, BlockSize: 512, Time: at}},
		{{Op: OpPolicy, ID: disktest.Volume, Policy: &RetentionPolicy{KeepLast: 3, KeepHourly: 24, KeepDaily: 7, KeepWeekly: 4, SnapshotEvery: 900}}},
		{
			{Op: OpSnapshot, ID: disktest.Volume, Name: "auto-2023-11-14T22:13:20Z", Gen: 1, Time: at},
			{Op: OpAutomatic, ID: disktest.Volume, Name: "auto-2023-11-14T22:13:20Z", Time: at.Add(time.Minute)},
		},
	} {
		b, err := json.Marshal(frame)
		must(t, err)
		out = append(append(out, b...), '\n')
	}
	return out
}

// Policies, and which snapshots they have made, outlive the compacting of the log.
func TestPolicy(t *testing.T) {
	golden.Check(t, "frames-policy", goldenPolicy(t))
	s := NewState(chunkSize)
	for _, frame := range bytes.Split(bytes.TrimSpace(goldenPolicy(t)), []byte("\n")) {
		must(t, s.ApplyFrame(frame))
	}
	must(t, s.Apply(&Record{Op: OpSnapshot, ID: disktest.Volume, Name: "asked-for", Gen: 1}))
	again := NewState(chunkSize)
	for rec := range s.Records {
		must(t, again.Apply(&rec))
	}
	for _, s := range []*State{s, again} {
		v := s.Volumes["vol"]
		if v.Policy != (RetentionPolicy{3, 24, 7, 4, 900}) {
			t.Errorf("policy %+v", v.Policy)
		}
		if at := v.Snapshots["auto-2023-11-14T22:13:20Z"].Automatic; !at.Equal(time.Unix(1700000060, 0)) {
			t.Errorf("made by the policy at %v", at)
		}
		if !v.Snapshots["asked-for"].Automatic.IsZero() {
			t.Error("a snapshot that was asked for counts as the policy's")
		}
	}
	must(t, s.Apply(&Record{Op: OpPolicy, ID: disktest.Volume}))
	if p := s.Volumes["vol"].Policy; p != (RetentionPolicy{}) {
		t.Errorf("a policy that was taken back: %+v", p)
	}
	for rec := range s.Records {
		if rec.Op == OpPolicy {
			t.Error("it is in the compacted log")
		}
	}
	for _, p := range []RetentionPolicy{{KeepLast: -1}, {KeepWeekly: 1001}, {SnapshotEvery: 59}, {SnapshotEvery: 1 << 40}} {
		if err := s.Apply(&Record{Op: OpPolicy, ID: disktest.Volume, Policy: &p}); !errors.Is(err, disk.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := s.Apply(&Record{Op: OpAutomatic, ID: disktest.Volume, Name: "nope"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	for _, op := range []Op{OpPolicy, OpAutomatic} {
		if got := Needed([]Record{{Op: op}}); got != NewFeatures(Policy) {
			t.Errorf("%s needs %v", op, got.Names())
		}
	}
}
