package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
	"varve/fs/loopdev"
	"varve/objstore"
)

// realStore makes a store with one volume, open until the end of the test.
func realStore(t *testing.T, size int64) *objstore.Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	st := openStore(t, dir)
	if _, err := st.CreateVolume(t.Context(), "vol", objstore.VolumeOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	return st
}

func openStore(t *testing.T, dir string) *objstore.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	st, err := objstore.Open(ctx, dir, objstore.Options{SegmentSize: 8*mib + 4096, SettleDelay: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// Random requests, through the mount and directly to the volume, are compared with a byte slice
// while the store settles.
func TestStoreModel(t *testing.T) {
	need.These(t, need.FUSE, need.Root)
	const size = 8 * mib
	st := realStore(t, size)
	s := mountSource(t, Store(st), Options{})
	f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	vol, err := st.OpenVolume("vol", "test")
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close()
	model := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		off := r.Int64N(size)
		n := min(1+r.Int64N(200_000), size-off)
		switch r.IntN(7) {
		case 0:
			if err := fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
				t.Fatal(err)
			}
			clear(model[off : off+n])
		case 1:
			copy(model[off:off+n], noise(int(n)))
			if _, err := vol.WriteAt(model[off:off+n], off); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		case 3, 4:
			copy(model[off:off+n], noise(int(n)))
			if _, err := f.WriteAt(model[off:off+n], off); err != nil {
				t.Fatal(err)
			}
		default:
			got := make([]byte, n)
			if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, model[off:off+n]) {
				t.Fatalf("step %d: %d bytes at %d read differently, %v", i, n, off, err)
			}
		}
	}
	if _, err := st.CreateSnapshot(t.Context(), "vol", "s"); err != nil {
		t.Fatal(err)
	}
	if sumFile(t, filepath.Join(s.Dir(), "snapshots/vol/s/disk.img")) != sha256.Sum256(model) {
		t.Error("the unsettled snapshot has other content")
	}
}

// A file system on a loop device over the real store: snapshot it while it is mounted, and read the
// snapshot by name and by root.
func TestStoreFileSystem(t *testing.T) {
	need.These(t, need.FUSE, need.Root, need.Loop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*commandTime)
	defer cancel()
	st := realStore(t, 96*mib)
	s := mountSource(t, Store(st), Options{})
	d := attachLoop(t, filepath.Join(s.Dir(), "volumes/vol/live"), loopdev.Options{})
	run(t, "mkfs.ext4", "-q", d.Path)
	dir, unmount := mountDisk(t, d.Path, "ext4", 0, "discard")
	want := fillTree(t, dir)
	run(t, "sync", "-f", dir)
	if _, err := st.CreateSnapshot(ctx, "vol", "s"); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(s.Dir(), "snapshots/vol/s/disk.img")
	frozen := sumFile(t, img) // whether settled or not
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(dir, "after"), noise(i*5000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "sync", "-f", dir)
	compareTree(t, dir, want)
	unmount()
	run(t, "fsck.ext4", "-fn", d.Path)
	info, err := st.WaitSnapshot(ctx, "vol", "s")
	if err != nil {
		t.Fatal(err)
	}
	if sumFile(t, img) != frozen {
		t.Error("the snapshot changed")
	}
	byID := filepath.Join(s.Dir(), "by-id", info.Root, "disk.img")
	if sumFile(t, byID) != frozen {
		t.Error("its root has other content")
	}
	if used := blocks(t, img); used != info.Logical || used < 16*mib || used > 60*mib {
		t.Errorf("the image takes %d bytes, the store says %d", used, info.Logical)
	}
	dst := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "--sparse=always", img, dst)
	if sumFile(t, dst) != frozen || blocks(t, dst) > info.Logical+mib {
		t.Errorf("the copy takes %d bytes, or differs", blocks(t, dst))
	}
	cp := attachLoop(t, dst, loopdev.Options{Buffered: true})
	dir, unmount = mountDisk(t, cp.Path, "ext4", 0, "") // replays the journal
	compareTree(t, dir, want)
	unmount()
	run(t, "fsck.ext4", "-fn", cp.Path)
	ro := attachLoop(t, img, loopdev.Options{ReadOnly: true})
	dir, unmount = mountDisk(t, ro.Path, "ext4", unix.MS_RDONLY, "norecovery")
	compareTree(t, dir, want)
	unmount()
	if err := loopdev.Detach(ctx, ro.Path, false); err != nil {
		t.Fatal(err)
	}
	if err := loopdev.Detach(ctx, d.Path, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody has the volume open", func() bool {
		v, err := st.VolumeInfo("vol")
		return err == nil && len(v.Users) == 0
	})
}

// Volumes and snapshots, by name and by root, are there after the store is opened again.
func TestStoreReopened(t *testing.T) {
	need.These(t, need.FUSE, need.Root)
	dir := filepath.Join(t.TempDir(), "store")
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	var root string
	content := noise(3*mib + 100)
	t.Run("write", func(t *testing.T) {
		st := openStore(t, dir)
		if _, err := st.CreateVolume(t.Context(), "vol", objstore.VolumeOptions{Size: 1 << 40}); err != nil {
			t.Fatal(err)
		}
		s := mountSource(t, Store(st), Options{})
		f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(content, 1<<39+77); err != nil {
			t.Fatal(err)
		}
		if _, err := st.CreateSnapshot(t.Context(), "vol", "s"); err != nil {
			t.Fatal(err)
		}
		if du := blocks(t, filepath.Join(s.Dir(), "snapshots/vol/s/disk.img")); du < int64(len(content)) {
			t.Errorf("the fresh snapshot takes %d bytes", du)
		}
		info, err := st.WaitSnapshot(t.Context(), "vol", "s")
		if err != nil {
			t.Fatal(err)
		}
		root = info.Root
	})
	t.Run("find", func(t *testing.T) {
		s := mountSource(t, Store(openStore(t, dir)), Options{})
		for _, name := range []string{"volumes/vol/live", "snapshots/vol/s/disk.img", "by-id/" + root + "/disk.img"} {
			f, err := os.Open(filepath.Join(s.Dir(), name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			begin := time.Now()
			at, err := f.Seek(0, unix.SEEK_DATA)
			if err != nil || at > 1<<39+77 || at < 1<<39-65536 {
				t.Errorf("%s: data at %d, %v", name, at, err)
			}
			t.Logf("%s: SEEK_DATA over half a TiB took %v", name, time.Since(begin))
			if _, err := f.Seek(1<<39+77, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(content))
			if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: other content, %v", name, err)
			}
		}
		if _, err := os.Stat(filepath.Join(s.Dir(), "by-id/beef")); !os.IsNotExist(err) {
			t.Errorf("an impossible root: %v", err)
		}
	})
}
