package devices

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

func TestList(t *testing.T) {
	dir := t.TempDir()
	if s, err := ReadList(dir); err != nil || len(s.Attached) > 0 {
		t.Errorf("no state reads as %+v, %v", s, err)
	}
	want := List{
		Version: listVersion, Store: "uuid", Boot: "boot",
		Attached: []protocol.Attachment{{Volume: "a", Device: "/dev/ublkb0", Transport: "ublk", Queues: 2}},
		Mounts:   []protocol.Mount{{Dir: "/mnt", AllowOther: true}},
	}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := ReadList(dir)
	if got.written.IsZero() {
		t.Error("when the state was written is not known")
	}
	got.written = want.written
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("state reads as %+v, %v", got, err)
	}
	if err := (List{}).Write(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("an empty state leaves %v, %v", left, err)
	}
	for text, word := range map[string]string{"{": "unexpected end", `{"version":99}`: "version 99"} {
		if err := os.WriteFile(filepath.Join(dir, listName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadList(dir); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("state %q: %v, want %q", text, err, word)
		}
	}
	for _, text := range []string{"", strings.Repeat("\x00", 300)} { // what a power cut leaves of a file that was not synced
		if err := os.WriteFile(filepath.Join(dir, listName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := ReadList(dir); err != nil || len(s.Attached) > 0 {
			t.Errorf("state %q reads as %+v, %v", text, s, err)
		}
	}
}

// A list is the store's own where the instance is, and in this boot.
func TestBindState(t *testing.T) {
	in := instance.Instance{UUID: "u", ID: "1"}
	written := List{
		Store: "u", Instance: "1", Boot: "boot", Starting: []string{"b"}, Mounts: []protocol.Mount{{Dir: "/mnt"}},
		Attached: []protocol.Attachment{
			{Volume: "a", Transport: "ublk", Device: "/dev/ublkb0", Mark: 5}, {Volume: "l", Transport: "loop", Device: "/dev/loop0"},
		},
	}
	own := written
	own.Bind(in, "boot")
	if !reflect.DeepEqual(own, written) {
		t.Errorf("its own list becomes %+v", own)
	}
	copied := written
	copied.Bind(instance.Instance{UUID: "u", ID: "2"}, "boot")
	if want := (List{Store: "u", Instance: "1", Boot: "boot", Foreign: written.Attached[:1]}); !reflect.DeepEqual(copied, want) {
		t.Errorf("a copied list becomes %+v, want %+v", copied, want)
	}
	later := written
	later.Bind(in, "another boot")
	if !reflect.DeepEqual(later, List{}) {
		t.Errorf("a list of another boot becomes %+v", later)
	}
}

// The list of an older version says nothing of the instance. It is the store's own if the store was
// there before it.
func TestBindStateOfOlderVersion(t *testing.T) {
	born := time.Date(2026, 11, 27, 10, 0, 0, 500, time.UTC)
	for _, c := range []struct {
		name           string
		since, written time.Duration // after the store was made
		known, ours    bool
	}{
		{"own", time.Hour, 2 * time.Hour, true, true},
		{"own, attached at once", -500, time.Millisecond, true, true},
		{"copied later, with its times", -time.Hour, -time.Hour, true, false},
		{"copied later, without", -time.Hour, time.Second, true, false},
		{"no time of birth", time.Hour, time.Hour, false, false},
	} {
		in := instance.Instance{UUID: "u", ID: "1"}
		if c.known {
			in.Born = born
		}
		s := List{
			Store: "u", Boot: "boot", Starting: []string{"b"}, written: born.Add(c.written),
			Attached: []protocol.Attachment{{Volume: "a", Transport: "ublk", ID: 3, Since: born.Add(c.since).Truncate(time.Second)}},
		}
		s.Bind(in, "boot")
		claims := s.Claims()
		for volume, i := range map[string]blockdev.DeviceInfo{
			"a": {ID: 3, State: blockdev.StateQuiesced, Owner: in.OldMark("a")},
			"b": {ID: 4, State: blockdev.StateDead, Owner: in.OldMark("b")},
		} {
			if _, ours := claims.Index(in).Volume(&i); ours != c.ours {
				t.Errorf("%s: the device of volume %s is ours: %v, want %v", c.name, volume, ours, c.ours)
			}
		}
		if foreign := len(s.Foreign) == 1; foreign == c.ours {
			t.Errorf("%s: foreign are %+v", c.name, s.Foreign)
		}
	}
}
