package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
)

func TestState(t *testing.T) {
	dir := t.TempDir()
	if s, err := readState(dir); err != nil || len(s.Attached) > 0 {
		t.Errorf("no state reads as %+v, %v", s, err)
	}
	want := state{
		Version: stateVersion, Store: "uuid", Boot: "boot",
		Attached: []protocol.Attachment{{Volume: "a", Device: "/dev/ublkb0", Transport: "ublk", Queues: 2}},
		Mounts:   []protocol.Mount{{Dir: "/mnt", AllowOther: true}},
	}
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readState(dir)
	if got.written.IsZero() {
		t.Error("when the state was written is not known")
	}
	got.written = want.written
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("state reads as %+v, %v", got, err)
	}
	if err := (state{}).write(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("an empty state leaves %v, %v", left, err)
	}
	for text, word := range map[string]string{"{": "unexpected end", `{"version":99}`: "version 99"} {
		if err := os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readState(dir); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("state %q: %v, want %q", text, err, word)
		}
	}
	for _, text := range []string{"", strings.Repeat("\x00", 300)} { // what a power cut leaves of a file that was not synced
		if err := os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := readState(dir); err != nil || len(s.Attached) > 0 {
			t.Errorf("state %q reads as %+v, %v", text, s, err)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		dir, path string
		want      bool
	}{{"/a", "/a", true}, {"/a", "/a/b", true}, {"/a", "/ab", false}, {"/", "/a", true}, {"/a/b", "/a", false}} {
		if within(c.dir, c.path) != c.want {
			t.Errorf("within(%q, %q) is %v", c.dir, c.path, !c.want)
		}
	}
}
