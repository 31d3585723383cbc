package index

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The index deletes its own files alone when it makes itself anew, and does not open where badger
// would mistake a file.
func TestStrays(t *testing.T) {
	dir := t.TempDir()
	x := openDisk(t, dir, Options{})
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !ownName(e.Name()) {
			t.Errorf("%s passes for a stray", e.Name())
		}
	}
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	harmless := []string{put("notes", "mine"), put("backup.sst", "mine"), put("MANIFEST.old", "mine")}
	for _, name := range []string{"99.sst", "0000001.sst", "+000099.sst", "7.vlog", "copy.vlog", "1.mem", "copy.mem"} {
		path := put(name, "mine")
		if _, err := Open(dir, Options{MinFree: -1}); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s: %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	put("MANIFEST", "nothing that badger knows")
	var log bytes.Buffer
	var rebuilt error
	x = openDisk(t, dir, Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Rebuilt: func(cause error) { rebuilt = cause }})
	if rebuilt == nil {
		t.Error("it was not made anew")
	}
	for _, path := range harmless {
		if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
		if !strings.Contains(log.String(), path) {
			t.Errorf("the log does not name %s", path)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}
