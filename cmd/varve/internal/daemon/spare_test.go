package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpare(t *testing.T) {
	dir := t.TempDir()
	if err := keepSpare(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, spareName)
	if fi, err := os.Stat(path); err == nil && fi.Size() != spareSize {
		t.Fatalf("the spare has %d bytes", fi.Size())
	} else if err != nil { // a file system without fallocate, or without room
		if err := os.WriteFile(path, make([]byte, spareSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tries := 0
	full := func() error {
		if tries++; tries == 1 {
			return &os.PathError{Op: "open", Path: "x", Err: unix.ENOSPC}
		}
		return nil
	}
	if err := withSpare(dir, full); err != nil || tries != 2 {
		t.Fatalf("%d tries: %v", tries, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatalf("the spare is still there: %v", err)
	}
	tries = 0
	if err := withSpare(dir, full); err == nil || tries != 1 {
		t.Fatalf("without a spare: %d tries, %v", tries, err)
	}
}
