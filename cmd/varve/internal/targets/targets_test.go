package targets

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"varve/blockdev"
	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/cmd/varve/internal/protocol"
)

func newFile(t *testing.T, dir, name string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// newStore makes a directory that looks like a store.
func newStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	newFile(t, dir, "superblock", 4096)
	if err := os.Mkdir(filepath.Join(dir, "segments"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The files of a store, of any, are no backing, by whatever path.
func TestStoreAsBacking(t *testing.T) {
	store, other := newStore(t), newStore(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(other, "segments"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		newFile(t, store, "file", 1<<20), newFile(t, filepath.Join(other, "segments"), "1", 1<<20), filepath.Join(link, "1"),
	} {
		_, err := Open(protocol.Target{Type: "loop", Files: []string{path}}, store, slog.Default())
		if !errors.Is(err, blockdev.ErrInvalid) || !strings.Contains(err.Error(), "is a file of the store") {
			t.Errorf("%s: %v", path, err)
		}
	}
	d, err := Open(protocol.Target{Type: "loop", Files: []string{newFile(t, t.TempDir(), "disk", 1<<20)}}, store, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A target that can't be opened leaves none of its files open.
func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	a, b := newFile(t, dir, "a", 2<<20), newFile(t, dir, "b", 4<<20)
	if _, err := Open(protocol.Target{Type: "stripe", Format: true, Files: []string{a, b}}, dir, slog.Default()); !errors.Is(err, blockdev.ErrInvalid) {
		t.Fatalf("unequal legs: %v", err)
	}
	for _, path := range []string{a, b} {
		f, err := backing.Open(path, backing.Options{}) // fails while it is locked
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

func TestMayResize(t *testing.T) {
	loop := protocol.Target{Type: "loop", Files: []string{newFile(t, t.TempDir(), "disk", 1<<20)}}
	w, err := backing.Open(loop.Files[0], backing.Options{}) // as the device's server has it
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, c := range []struct {
		t    protocol.Target
		size int64
		may  bool
	}{
		{loop, 1 << 20, true},
		{loop, 512, true},
		{loop, 1<<20 + 512, false},
		{protocol.Target{Type: "null"}, 1 << 40, true},
		{protocol.Target{Type: "stripe"}, 512, false},
	} {
		if err := MayResize(c.t, c.size); (err == nil) != c.may {
			t.Errorf("%v to %d: %v", &c.t, c.size, err)
		}
	}
}

func TestRecords(t *testing.T) {
	Runtime = filepath.Join(t.TempDir(), "run")
	t.Cleanup(func() { Runtime = "/run/varve/ublk" })
	record := func(id int, instance string) Record {
		return Record{Instance: instance, Store: "/srv/" + instance, TargetDevice: protocol.TargetDevice{
			ID: id, Depth: 16, Recovery: "reissue",
			Target: protocol.Target{Type: "loop", Files: []string{"/disk, with a comma"}},
		}}
	}
	for _, r := range []Record{record(10, "a"), record(9, "a"), record(2, "b"), record(3, "")} {
		if err := Note(r); err != nil {
			t.Fatal(err)
		}
	}
	if r, known, err := Noted(9); err != nil || !known || !reflect.DeepEqual(r, record(9, "a")) {
		t.Errorf("record 9 is %+v, %v, %v", r, known, err)
	}
	if _, known, err := Noted(4); known || err != nil {
		t.Errorf("record 4: %v, %v", known, err)
	}
	if err := os.WriteFile(recordPath(11), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := Kept("a")
	if len(list) != 2 || list[0].ID != 9 || list[1].ID != 10 || err == nil || !strings.Contains(err.Error(), "11.json") {
		t.Errorf("the daemon of a has %+v, %v, want devices 9 and 10, and one that can't be read", list, err)
	}
	if list, _ := Kept(""); len(list) != 0 {
		t.Errorf("a store without an instance has %+v", list)
	}
	if err := errors.Join(Forget(9), Forget(9)); err != nil {
		t.Error(err)
	}
	if _, known, err := Noted(9); known || err != nil {
		t.Errorf("a forgotten record: %v, %v", known, err)
	}
}

// A record of a new stripe is of the stripe that was made: its successor must not make another.
// The last record takes the directory with it, while other processes write theirs.
func TestForgetLeavesNothing(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "varve")
	Runtime = filepath.Join(parent, "ublk")
	t.Cleanup(func() { Runtime = "/run/varve/ublk" })
	var others sync.WaitGroup
	for id := range 4 {
		others.Go(func() {
			for range 200 {
				err := Note(Record{TargetDevice: protocol.TargetDevice{ID: id, Target: protocol.Target{Type: "null", Size: 1 << 20}}})
				if err := errors.Join(err, Forget(id)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	others.Wait()
	if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", parent, err)
	}
}

func TestRecordOfNewStripe(t *testing.T) {
	Runtime = t.TempDir()
	t.Cleanup(func() { Runtime = "/run/varve/ublk" })
	r := Record{TargetDevice: protocol.TargetDevice{ID: 1, Target: protocol.Target{Type: "stripe", Format: true, Files: []string{"/a", "/b"}}}}
	if err := Note(r); err != nil {
		t.Fatal(err)
	}
	if r, known, err := Noted(1); err != nil || !known || r.Format {
		t.Errorf("%+v, %v, %v", r, known, err)
	}
}

// An open target can have the sizes that its kind can: the device's queue asks it.
func TestFits(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", 1<<20)
	for _, c := range []struct {
		t    protocol.Target
		size int64
		fits bool
	}{
		{protocol.Target{Type: "null", Size: 1 << 20}, 1 << 40, true},
		{protocol.Target{Type: "loop", Files: []string{path}}, 1 << 20, true},
		{protocol.Target{Type: "loop", Files: []string{path}}, 2 << 20, false},
		{protocol.Target{Type: "stripe", Format: true, Files: []string{newFile(t, t.TempDir(), "a", 2<<20), newFile(t, t.TempDir(), "b", 2<<20)}}, 512, false},
	} {
		d, err := Open(c.t, "", slog.Default())
		if err != nil {
			t.Fatal(err)
		}
		var r target.Resizer = d
		if err := r.Fits(c.size); (err == nil) != c.fits {
			t.Errorf("%v of %d bytes: %v", &c.t, c.size, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
