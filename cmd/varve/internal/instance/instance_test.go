package instance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func storeAt(t *testing.T, dir string) Instance {
	t.Helper()
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	return instanceOf(t, dir)
}

func instanceOf(t *testing.T, dir string) Instance {
	t.Helper()
	in, err := At(dir, "u")
	if err != nil {
		t.Fatal(err)
	}
	if in.ID == "" {
		t.Fatalf("%s has no identity", dir)
	}
	return in
}

func shell(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// What is a copy has another identity, however it was made, and another mark for each volume; what
// was moved has not.
func TestInstanceOfCopy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	in := storeAt(t, dir)
	for _, c := range []struct {
		name string
		make func(to string)
		same bool
	}{
		{"cp -a", func(to string) { shell(t, "cp", "-a", dir, to) }, false},
		{"cp -r", func(to string) { shell(t, "cp", "-r", dir, to) }, false},
		{"tar", func(to string) {
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
			shell(t, "sh", "-c", `tar -C "$1" -cf - . | tar -C "$2" -xf -`, "sh", dir, to)
		}, false},
		{"hard links", func(to string) { shell(t, "cp", "-al", dir, to) }, true}, // they share the lock too
		{"mv", func(to string) { shell(t, "mv", dir, to) }, true},
		{"restored over it", func(to string) {
			shell(t, "cp", "-a", filepath.Join(filepath.Dir(to), "mv"), to)
		}, false},
	} {
		to := filepath.Join(t.TempDir(), "..", strings.ReplaceAll(c.name, "/", ""))
		if c.name == "mv" || c.name == "restored over it" {
			to = filepath.Join(filepath.Dir(dir), "mv")
		}
		if c.name == "restored over it" {
			to = dir
		}
		c.make(to)
		got := instanceOf(t, to)
		if same := got.ID == in.ID; same != c.same {
			t.Errorf("%s: the same instance: %v, want %v", c.name, same, c.same)
		}
		if same := got.Mark("a") == in.Mark("a"); same != c.same {
			t.Errorf("%s: the same mark: %v, want %v", c.name, same, c.same)
		}
	}
	if in, err := At(t.TempDir(), "u"); err != nil || in.ID != "" {
		t.Errorf("no store is instance %q, %v", in.ID, err)
	}
}

func TestMarksDiffer(t *testing.T) {
	a, b := Instance{UUID: "u", ID: "1"}, Instance{UUID: "u", ID: "2"}
	seen := map[uint64]bool{0: true}
	for _, m := range []uint64{
		Standalone, a.Mark("v"), b.Mark("v"), a.Mark("w"), Instance{UUID: "v", ID: "1"}.Mark("v"), a.OldMark("v"), a.OldMark("w"),
		Instance{UUID: "v"}.OldMark("v"), Instance{UUID: "uv"}.OldMark(""),
	} {
		if seen[m] {
			t.Errorf("mark %x is not its own", m)
		}
		seen[m] = true
	}
	if a.OldMark("v") != b.OldMark("v") {
		t.Error("the mark of older versions knows more than the UUID")
	}
}

// A device is a store's by its own mark, or by a note of its number and mark.
func TestClaims(t *testing.T) {
	in := Instance{UUID: "u", ID: "1"}
	c := Claims{Volumes: []Volume{{"a", "a"}, {"new", "was"}}, Names: []string{"was", "listed"}, Noted: []protocol.Attachment{
		{Volume: "old", ID: 3, Mark: in.OldMark("old")}, {Volume: "begun", ID: AnyNumber, Mark: in.OldMark("begun")}, {Volume: "none", ID: 4},
	}}
	for _, i := range []struct {
		id    int
		state blockdev.State
		owner uint64
		want  string
	}{
		{0, blockdev.StateQuiesced, in.Mark("a"), "a"},
		{0, blockdev.StateQuiesced, Instance{UUID: "u", ID: "2"}.Mark("a"), ""},
		{0, blockdev.StateQuiesced, in.OldMark("a"), ""},
		{3, blockdev.StateQuiesced, in.OldMark("old"), "old"},
		{2, blockdev.StateQuiesced, in.OldMark("old"), ""}, // the number was given to another store's
		{7, blockdev.StateDead, in.OldMark("begun"), "begun"},
		{7, blockdev.StateQuiesced, in.OldMark("begun"), ""},
		{4, blockdev.StateQuiesced, 0, ""},
		{5, blockdev.StateQuiesced, in.Mark("was"), "new"}, // it was renamed
		{5, blockdev.StateQuiesced, in.Mark("new"), ""},
		{5, blockdev.StateQuiesced, in.Mark("listed"), "listed"},
	} {
		volume, ours := c.Index(in).Volume(&blockdev.DeviceInfo{ID: i.id, State: i.state, Owner: i.owner})
		if volume != i.want || ours != (i.want != "") {
			t.Errorf("device %d, %s, with mark %x: volume %q, %v; want %q", i.id, i.state, i.owner, volume, ours, i.want)
		}
	}
}
