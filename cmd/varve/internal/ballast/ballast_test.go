package ballast

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBallast(t *testing.T) {
	dir := t.TempDir()
	if err := Keep(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if fi, err := os.Stat(path); err == nil && fi.Size() != size {
		t.Fatalf("the ballast has %d bytes", fi.Size())
	} else if err != nil { // a file system without fallocate, or without room
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
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
	if err := With(dir, full); err != nil || tries != 2 {
		t.Fatalf("%d tries: %v", tries, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatalf("the ballast is still there: %v", err)
	}
	tries = 0
	if err := With(dir, full); err == nil || tries != 1 {
		t.Fatalf("without ballast: %d tries, %v", tries, err)
	}
}
