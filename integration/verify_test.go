//go:build integration

package integration

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestVerifiedReads flips a byte of a settled volume in a segment. With verify only reads of that
// chunk fail with EIO, through the device and through the mount; without verify they return the
// flipped byte.
func TestVerifiedReads(t *testing.T) {
	const chunk, size = 16 << 10, 2 << 20
	for name, args := range map[string][]string{
		"zero": {"--copy-mode", "zero"}, "user": {"--copy-mode", "user"}, "plain": {"--copy-mode", "plain"},
		"loop": {"--transport", "loop"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t, 2*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			n.varve(ctx, "volume", "create", "disk", "--size", "2M", "--verify")
			dev := n.attach(ctx, "disk", args...)
			data := make([]byte, size)
			if _, err := io.ReadFull(stream(1), data); err != nil {
				t.Fatal(err)
			}
			writeDirect(t, dev, data)
			root := n.snapshot(ctx, "disk@snap")
			mnt := n.fuse(ctx)
			files := []string{
				dev, filepath.Join(mnt, "volumes/disk/live"), filepath.Join(mnt, "snapshots/disk/snap/disk.img"),
				filepath.Join(mnt, "by-id", root, "disk.img"),
			}
			for _, file := range files {
				wantBytes(t, file, data, -1)
			}
			const at = 37*chunk + 5000
			undo := flipInStore(t, n.store, data[at/chunk*chunk:at/chunk*chunk+chunk], at%chunk)
			for _, file := range files {
				wantBytes(t, file, data, at/chunk)
			}
			wantLog(t, n, "volume=disk", "first_sector=1184 last_sector=1215", "file=segments/", "offset=", "hash=")
			undo()
			dropCaches(t)
			wantBytes(t, dev, data, -1)

			undo = flipInStore(t, n.store, data[at/chunk*chunk:at/chunk*chunk+chunk], at%chunk)
			defer undo()
			n.varve(ctx, "volume", "set", "disk", "--verify=false")
			data[at] ^= 0x10
			for _, file := range files {
				wantBytes(t, file, data, -1)
			}
			n.varve(ctx, "umount", mnt)
			n.varve(ctx, "detach", "disk")
		})
	}
}

// TestPartialWriteOfDamagedChunk: a part of a damaged chunk is written. That part can be read, also
// after the daemon was killed, and the damage is not hashed into a new chunk: snapshots are refused
// until the whole chunk is written.
func TestPartialWriteOfDamagedChunk(t *testing.T) {
	const chunk, size = 16 << 10, 2 << 20
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx, "--settle-delay", "50ms")
	dev := n.volume(ctx, "disk", "2M")
	data := make([]byte, size)
	if _, err := io.ReadFull(stream(1), data); err != nil {
		t.Fatal(err)
	}
	writeDirect(t, dev, data)
	n.snapshot(ctx, "disk@before")
	const at = 37 * chunk
	flipInStore(t, n.store, data[at:at+chunk], 100)
	put := func(off, length int, seed uint64) {
		t.Helper()
		f := openDirect(t, dev, os.O_RDWR)
		defer f.Close()
		buf := aligned(t, length)
		if _, err := io.ReadFull(stream(seed), buf); err != nil {
			t.Fatal(err)
		}
		copy(data[off:], buf)
		if _, err := f.WriteAt(buf, int64(off)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	put(at+4096, 4096, 2)
	put(50*chunk, 4096, 3)
	refused := func() {
		t.Helper()
		r := n.try(ctx, "snapshot", "create", "disk@part", "--wait")
		if r.code == 0 || !strings.Contains(r.stderr, "sectors 1184 to 1215 of volume disk") {
			t.Fatalf("snapshot of a damaged chunk that was written in part: status %d, %s", r.code, r.stderr)
		}
		n.try(ctx, "snapshot", "delete", "disk@part") // one that was made before the chunk was looked at
	}
	refused()
	n.kill(ctx)
	n.serve(ctx, "--settle-delay", "50ms")
	dev = n.attachAgain(ctx, "disk")
	refused()
	got := aligned(t, 4096)
	f := openDirect(t, dev, os.O_RDONLY)
	if _, err := f.ReadAt(got, at+4096); err != nil || !bytes.Equal(got, data[at+4096:at+8192]) {
		t.Errorf("what was written of a damaged chunk is not there: %v", err)
	}
	_ = f.Close()
	put(at, chunk, 4)
	n.snapshot(ctx, "disk@whole")
	wantBytes(t, dev, data, -1)
	n.varve(ctx, "detach", "disk")
}

// TestVerifiedFio runs fio's verification on a volume with verify while it settles.
func TestVerifiedFio(t *testing.T) {
	for _, mode := range []string{"zero", "user", "plain"} {
		t.Run(mode, func(t *testing.T) {
			ctx := limit(t, 3*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx, "--settle-delay", "100ms", "--tail-soft", "16M", "--tail-hard", "64M")
			n.varve(ctx, "volume", "create", "disk", "--size", "512M", "--verify")
			dev := n.attach(ctx, "disk", "--copy-mode", mode)
			fio(ctx, t, fioVerify(dev, "--rw=randwrite", "--bsrange=512-1M", "--size=64M", "--iodepth=32"))
			n.snapshot(ctx, "disk@settled")
			fio(ctx, t, fioVerify(dev, "--rw=randwrite", "--bsrange=512-64k", "--size=32M", "--offset=16M", "--iodepth=16"))
			noIOErrors(ctx, t, dev)
			n.varve(ctx, "detach", "disk")
		})
	}
}

func writeDirect(t *testing.T, dev string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := aligned(t, 1<<20)
	for off := 0; off < len(data); off += len(buf) {
		copy(buf, data[off:])
		if _, err := f.WriteAt(buf, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// wantBytes reads a device or image in blocks of 4 KiB with direct I/O: each must be right, except
// in chunk bad, EIO.
func wantBytes(t *testing.T, file string, data []byte, bad int) {
	t.Helper()
	const chunk = 16 << 10
	dropCaches(t)
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // before the unmount
	buf := aligned(t, 4096)
	wrong := 0
	for off := 0; off < len(data) && wrong < 3; off += len(buf) {
		_, err := f.ReadAt(buf, int64(off))
		switch {
		case off/chunk == bad && !errors.Is(err, unix.EIO):
			wrong++
			t.Errorf("%s: read at %d of a damaged chunk: %v, want EIO", file, off, err)
		case off/chunk != bad && err != nil:
			wrong++
			t.Errorf("%s: read at %d: %v", file, off, err)
		case off/chunk != bad && !bytes.Equal(buf, data[off:off+len(buf)]):
			wrong++
			t.Errorf("%s: at %d: other bytes", file, off)
		}
	}
}

// flipInStore finds a chunk in the store's segments and flips one of its bits; undo flips the bit
// back.
func flipInStore(t *testing.T, store string, chunk []byte, at int) (undo func()) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(store, "segments", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range segments {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(content, chunk)
		if i < 0 {
			continue
		}
		flip := func(b byte) {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{b}, int64(i+at)); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		flip(chunk[at] ^ 0x10)
		was := chunk[at]
		return func() { flip(was) }
	}
	t.Fatalf("no segment holds the chunk")
	return nil
}
