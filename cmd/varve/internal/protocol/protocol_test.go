package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"varve/objstore"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "0", "data", "vm-1.img_old", "A.B", "vm:web+db", "2026-11-27T12:00:00+01:00", strings.Repeat("x", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, words := range map[string]string{
		"":                             "empty",
		".":                            `begins with "."`,
		"..":                           `begins with "."`,
		"-rf":                          `begins with "-"`,
		"_a":                           `begins with "_"`,
		":a":                           `begins with ":"`,
		"+a":                           `begins with "+"`,
		"a b":                          "space",
		"a/b":                          `"/"`,
		"a@b":                          `"@"`,
		"a\nb":                         `"\n"`,
		"a\x00b":                       `"\x00"`,
		"é":                            `"é"`,
		"a\xffb":                       "name has",
		strings.Repeat("x", MaxName+1): "129 characters; the maximum is 128",
	} {
		err := CheckName(name)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", name, err, words)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%q: the error %q has control characters", name, err)
		}
	}
}

// What a command takes for a name is what the store takes.
func TestCheckNameAsStore(t *testing.T) {
	for c := range 256 {
		for _, name := range []string{string([]byte{byte(c)}), string([]byte{'a', byte(c)})} {
			if here, there := CheckName(name), objstore.CheckName("volume", name); (here == nil) != (there == nil) {
				t.Errorf("%q: %v here, %v in the store", name, here, there)
			}
		}
	}
}

func TestSplitSnapshot(t *testing.T) {
	if v, s, err := SplitSnapshot("a@b"); v != "a" || s != "b" || err != nil {
		t.Errorf("a@b: %q, %q, %v", v, s, err)
	}
	for in, words := range map[string]string{
		"a": "VOLUME@SNAPSHOT", "@b": "volume", "a@": "snapshot", "a@b@c": `snapshot "b@c"`, "a b@c": `volume "a b"`,
	} {
		if _, _, err := SplitSnapshot(in); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", in, err, words)
		}
	}
}

func TestCheckVolume(t *testing.T) {
	for _, c := range []CreateVolume{
		{Name: "a", Size: 512}, {Name: "a", Size: 4096, BlockSize: 4096}, {Name: "a", Size: objstore.MaxVolumeSize},
	} {
		if err := c.Check(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for words, c := range map[string]CreateVolume{
		"block size 8":              {Name: "a", Size: 512, BlockSize: 8},
		"size 0":                    {Name: "a"},
		"size -1":                   {Name: "a", Size: -1},
		"largest volume, 64TiB":     {Name: "a", Size: objstore.MaxVolumeSize + 512},
		"the next multiple is 8192": {Name: "a", Size: 4096 + 512, BlockSize: 4096},
		"the next multiple is 1024": {Name: "a", Size: 513},
		"letters, digits":           {Name: "a b", Size: 512},
		"begin it with a letter":    {Name: ".a", Size: 512},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", c, err, words)
		}
	}
}

func TestCheckAttach(t *testing.T) {
	for _, a := range []Attach{{Volume: "a"}, {Volume: "a", Transport: "auto", CopyMode: "zero", Queues: MaxQueues, Depth: MaxDepth}} {
		if err := a.Check(); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
	for words, a := range map[string]Attach{
		"transport": {Volume: "a", Transport: "nvme"}, "copy mode": {Volume: "a", CopyMode: "fast"},
		"65 queues": {Volume: "a", Queues: MaxQueues + 1}, "-1 queues": {Volume: "a", Queues: -1},
		"depth 4097": {Volume: "a", Depth: MaxDepth + 1}, "name": {Volume: ""},
	} {
		if err := a.Check(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", a, err, words)
		}
	}
}

// An error is the same to errors.Is on both sides of the socket.
func TestErrorsCrossTheSocket(t *testing.T) {
	for _, k := range kinds {
		err := fmt.Errorf("do a thing: %w", k.err)
		e, status := NewError(err)
		data, merr := json.Marshal(e)
		if merr != nil {
			t.Fatal(merr)
		}
		var got Error
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(&got, k.err) || got.Error() != err.Error() || status < 400 {
			t.Errorf("%v arrives as %+v with status %d", err, got, status)
		}
		// And once more, when a handler passes a client's error on.
		again, _ := NewError(fmt.Errorf("pass on: %w", &got))
		if !errors.Is(again, k.err) || !strings.HasPrefix(again.Message, "pass on: ") {
			t.Errorf("%v is passed on as %+v", err, again)
		}
	}
	e, status := NewError(errors.New("odd"))
	if e.Kind != "" || e.Message != "odd" || status != 500 || errors.Unwrap(e) != nil {
		t.Errorf("an unknown error is %+v with status %d", e, status)
	}
}

func TestAsKeepsTheText(t *testing.T) {
	err := As(ErrNoTransport, errors.New("no /dev/ublk-control"))
	if err.Error() != "no /dev/ublk-control" || !errors.Is(err, ErrNoTransport) {
		t.Errorf("%v", err)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"data", "", ".", "a b", "a/b", "é", "\xff", strings.Repeat("x", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			return
		}
		if len(name) == 0 || len(name) > MaxName || strings.ContainsAny(name, "/@ \x00\n") || name[0] == '.' || name[0] == '-' {
			t.Errorf("%q is taken", name)
		}
	})
}
