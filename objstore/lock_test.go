package objstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
)

// A lock outlives the openings that borrow it, and is shared with whoever has its file.
func TestLockIsLent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if _, err := TakeLock(dir); !errors.Is(err, ErrNotStore) {
		t.Errorf("lock of nothing: %v", err)
	}
	if err := Init(dir, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	l, err := TakeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := Open(t.Context(), dir, Options{Lock: l})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrStoreLocked) {
			t.Errorf("open between two openings of the holder: %v", err)
		}
	}
	fd, err := unix.FcntlInt(l.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	heir := InheritLock(dir, os.NewFile(uintptr(fd), "lock"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := TakeLock(dir); !errors.Is(err, ErrStoreLocked) {
		t.Errorf("lock while the heir has it: %v", err)
	}
	s, err := Open(t.Context(), dir, Options{Lock: heir})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), heir.Close()); err != nil {
		t.Fatal(err)
	}
	if l, err = TakeLock(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := Check(dir); !errors.Is(err, ErrNotStore) {
		t.Errorf("check of nothing: %v", err)
	}
	if err := Init(dir, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, refs.SuperblockFile))
	if err != nil {
		t.Fatal(err)
	}
	le.PutUint32(b[8:], 3) // versions 1 and 2 are known
	le.PutUint32(b[508:], disk.Checksum(b[:508]))
	if err := os.WriteFile(filepath.Join(dir, refs.SuperblockFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); !errors.Is(err, ErrVersion) {
		t.Errorf("check of a newer store: %v", err)
	}
	for _, f := range []string{refs.SuperblockFile, refs.SuperblockCopy} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Check(dir); !errors.Is(err, ErrCorrupt) {
		t.Errorf("check of a damaged store: %v", err)
	}
}

// Quiesce leaves a store that takes writes, and Resume one that settles.
func TestQuiesceAndResume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := Init(dir, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir, Options{SettleDelay: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.CreateVolume(t.Context(), "v", VolumeOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume("v", "test")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = byte(i >> 8)
	}
	for range 3 {
		if err := s.Quiesce(); err != nil {
			t.Fatal(err)
		}
		if _, err := v.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		if n := s.catalog.info(v.volume).Tail; n == 0 {
			t.Error("a quiet store settles")
		}
		data[0]++
		s.Resume()
		if err := s.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
