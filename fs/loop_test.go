package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
	"varve/fs/loopdev"
)

// attachLoop attaches a loop device until the end of the test.
func attachLoop(t *testing.T, file string, o loopdev.Options) loopdev.Device {
	t.Helper()
	need.These(t, need.Loop, need.Root)
	d, err := loopdev.Attach(t.Context(), file, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := loopdev.Detach(ctx, d.Path, false)
		if err == nil || errors.Is(err, loopdev.ErrNotAttached) {
			return
		}
		t.Error(errors.Join(err, loopdev.Detach(ctx, d.Path, true)))
	})
	return d
}

// mountDisk mounts a file system until the end of the test, or until unmount is called.
func mountDisk(t *testing.T, device, kind string, flags uintptr, data string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount(device, dir, kind, flags, data); err != nil {
		t.Fatalf("mount %s: %v", device, err)
	}
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			if err := unix.Unmount(dir, 0); err != nil {
				t.Errorf("unmount %s: %v", dir, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)))
			}
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// The fallback's main use: a real file system on a loop device over live.
func TestLoopFileSystem(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		t.Run(fmt.Sprintf("buffered=%v", buffered), func(t *testing.T) {
			src := newFakeSource()
			v := src.create("vol", 96*mib)
			s := mountSource(t, src, Options{})
			live := filepath.Join(s.Dir(), "volumes/vol/live")
			d := attachLoop(t, live, loopdev.Options{Buffered: buffered})
			if d.DirectIO == buffered || d.ReadOnly || d.Size != 96*mib || d.BlockSize != 512 || d.File != live {
				t.Errorf("the device is %+v", d)
			}
			run(t, "mkfs.ext4", "-q", d.Path)
			dir, unmount := mountDisk(t, d.Path, "ext4", 0, "discard")
			want := fillTree(t, dir)
			run(t, "sync", "-f", dir)
			flushes := v.flushed()
			if flushes == 0 {
				t.Error("the device forwarded no flush")
			}
			before := v.data()
			if err := os.RemoveAll(filepath.Join(dir, "big")); err != nil {
				t.Fatal(err)
			}
			run(t, "sync", "-f", dir)
			run(t, "fstrim", dir)
			// ext4 initializes inode tables in the meantime, which takes some of the space again.
			if after := v.data(); after > before-8*mib {
				t.Errorf("%d bytes before deleting 16 MiB, %d after: discards made no holes", before, after)
			}
			compareTree(t, dir, want)
			unmount()
			run(t, "fsck.ext4", "-fn", d.Path)

			src.snapshot("vol", "s", true)
			img := attachLoop(t, filepath.Join(s.Dir(), "snapshots/vol/s/disk.img"),
				loopdev.Options{ReadOnly: true, Buffered: buffered})
			if !img.ReadOnly {
				t.Error("the image's device accepts writes")
			}
			run(t, "fsck.ext4", "-fn", img.Path)
			dir, unmount = mountDisk(t, img.Path, "ext4", unix.MS_RDONLY, "")
			compareTree(t, dir, want)
			unmount()
		})
	}
}

// fillTree fills dir, and returns the content that is left after "big" is deleted.
func fillTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	want := make(map[string][]byte)
	for i := range 200 {
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		want[name] = noise(i * 331)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), want[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), noise(16*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	return want
}

func compareTree(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	for name, content := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: other content, %v", name, err)
		}
	}
}

func TestLoopBlockSize(t *testing.T) {
	src := newFakeSource()
	src.create("vol", 4*mib)
	s := mountSource(t, src, Options{})
	live := filepath.Join(s.Dir(), "volumes/vol/live")
	if d := attachLoop(t, live, loopdev.Options{BlockSize: 4096}); d.BlockSize != 4096 {
		t.Errorf("block size %d", d.BlockSize)
	}
	found, err := loopdev.Find(live)
	if err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
}

// Writes through the device are visible in the file and the other way round.
func TestLoopAndFileAgree(t *testing.T) {
	v, f := liveMount(t, 4*mib)
	d := attachLoop(t, f.Name(), loopdev.Options{})
	dev, err := unix.Open(d.Path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dev)
	page, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	got := make([]byte, 8192)
	for i := range 20 {
		off := int64(i * 12288)
		copy(page, noise(8192+i))
		if n, err := unix.Pwrite(dev, page, off); err != nil || n != 8192 {
			t.Fatal(n, err)
		}
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, page) {
			t.Fatalf("the file has other content, %v", err)
		}
		if _, err := v.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 8192), off); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Pread(dev, page, off); err != nil || n != 8192 || page[0] != byte(i+1) || page[8191] != page[0] {
			t.Fatalf("the device has other content, %v", err)
		}
	}
}

// A loop device whose mount is gone returns I/O errors, and is detached when its last user closes
// it.
func TestLoopOverDeadMount(t *testing.T) {
	src := newFakeSource()
	src.create("vol", 4*mib)
	s := mountSource(t, src, Options{})
	live := filepath.Join(s.Dir(), "volumes/vol/live")
	d := attachLoop(t, live, loopdev.Options{})
	if err := s.Unmount(); !errors.Is(err, ErrBusy) {
		t.Errorf("Unmount under a loop device: %v, want ErrBusy", err)
	}
	dev, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "ForceUnmount and a read of the device", func() {
		if err := s.ForceUnmount(); err != nil {
			t.Error(err)
		}
		if _, err := unix.Pread(dev, make([]byte, 4096), 0); !errors.Is(err, unix.EIO) {
			t.Errorf("a read of the device: %v, want EIO", err)
		}
	})
	if err := unix.Close(dev); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is detached", func() bool {
		return errors.Is(loopdev.Detach(t.Context(), d.Path, false), loopdev.ErrNotAttached)
	})
}
