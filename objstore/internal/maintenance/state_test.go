package maintenance

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/vfs"
)

func goldenState() *State {
	at := func(n int64) time.Time { return time.Unix(1700000000+n, 0).UTC() }
	return &State{
		Settings: Settings{ScrubEvery: 30 * 24 * time.Hour, ScrubRate: 64 << 20, CollectRate: 32 << 20},
		Round:    7,
		Pass:     &Pass{Begun: at(1), Bytes: 1 << 40, Scheduled: true},
		Uptime:   time.Hour,
		Scrubbed: Scrub{Begun: at(2), Ended: at(3), Bytes: 5 << 40, Damaged: 2},
		Collected: Collection{
			Begun: at(4), Ended: at(5), Freed: 9 << 30,
		},
		Runs: []Run{
			{First: 1, Last: 5, Round: 7, At: at(6)},
			{First: 6, Last: 6, Round: 6, Damaged: true, At: at(7)},
			{First: 9, Last: 4000, Round: 5, At: at(8)},
		},
	}
}

func TestGolden(t *testing.T) {
	golden.Check(t, "state", goldenState().Encode(disktest.Store))
	golden.Check(t, "empty", (&State{}).Encode(disktest.Store))
}

func TestGoldenDecode(t *testing.T) {
	for _, want := range []*State{goldenState(), {}} {
		got, err := decode(want.Encode(disktest.Store), disktest.Store)
		must(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("decoded %+v, want %+v", got, want)
		}
	}
}

// A state of any bytes, and of bytes with a good checksum, is encoded as it was decoded.
func FuzzState(f *testing.F) {
	f.Add(goldenState().Encode(disktest.Store))
	f.Add((&State{}).Encode(disktest.Store))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, disktest.Seal(b, max(len(b)-checksumSize, 0))} {
			s, err := decode(b, disktest.Store)
			if err != nil {
				continue
			}
			again, err := decode(s.Encode(disktest.Store), disktest.Store)
			if err != nil || !reflect.DeepEqual(again, s) {
				t.Fatalf("%+v becomes %+v, %v", s, again, err)
			}
		}
	})
}

// Each flipped bit is noticed, and the settings come from the copy.
func TestFlippedBit(t *testing.T) {
	want := goldenState()
	b := want.Encode(disktest.Store)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		fs := disktest.FS(t, File, bad)
		f, err := fs.Create(Copy)
		must(t, err)
		_, err = f.WriteAt(b, 0)
		must(t, errors.Join(err, f.Close()))
		got, damage, err := Read(fs, disktest.Store)
		must(t, err)
		if len(damage) != 1 || damage[0].File != File || !reflect.DeepEqual(got, want) {
			t.Errorf("byte %d: damage %v, state %+v", i, damage, got)
		}
		if found := Verify(fs, disktest.Store); len(found) != 1 || found[0].File != File {
			t.Errorf("byte %d: verify finds %v", i, found)
		}
	}
}

// The file of a newer varve is neither damaged nor read.
func TestNewerVersion(t *testing.T) {
	b := goldenState().Encode(disktest.Store)
	le.PutUint32(b[offVersion:], version+1)
	fs := disktest.FS(t, File, disktest.Seal(b, len(b)-checksumSize))
	if _, damage, err := Read(fs, disktest.Store); !errors.Is(err, disk.ErrVersion) || len(damage) > 0 {
		t.Errorf("%v, damage %v", err, damage)
	}
	if damage := Verify(fs, disktest.Store); len(damage) > 0 {
		t.Errorf("verify finds %v", damage)
	}
}

func TestReadAndWrite(t *testing.T) {
	fs := vfs.NewMem(0)
	none, damage, err := Read(fs, disktest.Store)
	if err != nil || len(damage) > 0 || !reflect.DeepEqual(none, &State{}) {
		t.Fatalf("without a file: %+v, %v, %v", none, damage, err)
	}
	want := goldenState()
	must(t, want.Write(fs, disktest.Store, false))
	if _, err := fs.Used(Copy); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy was written, and the settings had not changed: %v", err)
	}
	must(t, want.Write(fs, disktest.Store, true))
	must(t, fs.Remove(File))
	got, damage, err := Read(fs, disktest.Store)
	if err != nil || len(damage) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("of the copy: %+v, %v, %v", got, damage, err)
	}
	if _, damage, err = Read(fs, uuid.New()); err != nil || len(damage) != 1 {
		t.Errorf("of another store: %v, %v", damage, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
