package loopdev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
)

const mib = 1 << 20

func backing(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func attachForTest(t *testing.T, file string, o Options) Device {
	t.Helper()
	need.These(t, need.Loop, need.Root)
	d, err := Attach(t.Context(), file, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := Detach(ctx, d.Path, false)
		if err == nil || errors.Is(err, ErrNotAttached) {
			return
		}
		t.Error(errors.Join(err, Detach(ctx, d.Path, true)))
	})
	return d
}

func TestAttachFindDetach(t *testing.T) {
	file := backing(t)
	d := attachForTest(t, file, Options{Buffered: true})
	if d.File != file || d.Size != 4*mib || d.BlockSize != 512 || d.ReadOnly || d.DirectIO || d.Deleted {
		t.Errorf("%+v", d)
	}
	found, err := Find(file)
	if err != nil || len(found) != 1 || found[0] != d {
		t.Errorf("found %v, %v; want %v", found, err, d)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(file); err != nil || len(found) != 1 || !found[0].Deleted {
		t.Errorf("after its removal found %v, %v", found, err)
	}
	if err := Detach(t.Context(), d.Path, false); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(file); err != nil || len(found) != 0 {
		t.Errorf("after Detach found %v, %v", found, err)
	}
	if err := Detach(t.Context(), d.Path, false); !errors.Is(err, ErrNotAttached) {
		t.Errorf("second Detach: %v", err)
	}
}

func TestReadOnlyAndBlockSize(t *testing.T) {
	d := attachForTest(t, backing(t), Options{ReadOnly: true, BlockSize: 4096, Buffered: true})
	if !d.ReadOnly || d.BlockSize != 4096 {
		t.Errorf("%+v", d)
	}
	f, err := os.OpenFile(d.Path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(make([]byte, 4096))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		t.Error("a write worked")
	}
}

// A refused Detach leaves an open device attached, even after its user closes it.
func TestDetachRefusesWhileOpen(t *testing.T) {
	for name, flags := range map[string]int{"open": unix.O_RDONLY, "claimed": unix.O_RDONLY | unix.O_EXCL} {
		t.Run(name, func(t *testing.T) {
			d := attachForTest(t, backing(t), Options{Buffered: true})
			fd, err := unix.Open(d.Path, flags|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := Detach(t.Context(), d.Path, false); !errors.Is(err, ErrBusy) {
				t.Errorf("Detach: %v, want ErrBusy", err)
			}
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
			if !attached(filepath.Base(d.Path)) {
				t.Fatal("the refused Detach detached on close")
			}
		})
	}
}

func TestForcedDetachWaitsForTheLastUser(t *testing.T) {
	d := attachForTest(t, backing(t), Options{Buffered: true})
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := Detach(t.Context(), d.Path, true); err != nil {
		t.Fatal(err)
	}
	if !attached(filepath.Base(d.Path)) {
		t.Error("detached under its user")
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); attached(filepath.Base(d.Path)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not detached after its last user")
		}
	}
}

func TestAttachRefusals(t *testing.T) {
	need.These(t, need.Loop, need.Root)
	if _, err := Attach(t.Context(), filepath.Join(t.TempDir(), "missing"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Attach(t.Context(), backing(t), Options{BlockSize: 777}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a block size of 777: %v", err)
	}
	if err := Detach(t.Context(), "/dev/null", true); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Detach of /dev/null: %v", err)
	}
}
