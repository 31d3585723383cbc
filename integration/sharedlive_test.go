//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mapLive maps the first n bytes of a volume's live file for reading.
func mapLive(t *testing.T, live string, n int) (m []byte, unmap func()) {
	t.Helper()
	f, err := os.Open(live)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err = unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	unmap = sync.OnceFunc(func() { _ = unix.Munmap(m) })
	t.Cleanup(unmap)
	return m, unmap
}

// letters returns 4 KiB of one letter.
func letters(letter byte) []byte { return bytes.Repeat([]byte{letter}, 4096) }

// wantByte checks one byte, read through the page cache.
func wantByte(t *testing.T, what, path string, off int64, want byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got [1]byte
	if _, err := f.ReadAt(got[:], off); err != nil || got[0] != want {
		t.Errorf("%s: %s at %d is %q (%v), want %q", what, path, off, got[:], err, want)
	}
}

// TestLiveExcludesDevice: a volume is written through its device or its live file, never both at
// once, and each shows the other's writes afterwards.
func TestLiveExcludesDevice(t *testing.T) {
	for _, transport := range []string{"ublk", "loop"} {
		t.Run(transport, func(t *testing.T) {
			ctx := limit(t, 2*time.Minute)
			n := newNode(ctx, t)
			n.serve(ctx)
			dev := n.volume(ctx, "disk", "16M", "--transport", transport)
			dir := n.fuse(ctx)
			live := filepath.Join(dir, "volumes", "disk", "live")
			if f, err := os.OpenFile(live, os.O_RDWR, 0); !errors.Is(err, unix.EBUSY) {
				t.Errorf("live of an attached volume opened for writing: %v, %v", f, err)
			}
			mapped, unmap := mapLive(t, live, 1<<20)
			if mapped[5000] != 0 {
				t.Fatal("a new volume is not all zeroes")
			}
			write := func(path string, letter byte, off int64) {
				t.Helper()
				f, err := os.OpenFile(path, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := f.WriteAt(letters(letter), off); err != nil {
					t.Fatal(err)
				}
			}
			write(dev, 'D', 4096)
			wantByte(t, "written by the device, and closed", live, 5000, 'D')
			n.varve(ctx, "detach", "disk")
			if mapped[5000] != 'D' {
				t.Errorf("after detach a mapping of live has %q, want what the device wrote", mapped[5000])
			}

			f, err := os.OpenFile(live, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			n.refuse(ctx, []string{"disk", "in use", "open for writing"}, "attach", "disk", "--transport", transport)
			if _, err := f.WriteAt(letters('L'), 4096); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			if mapped[5000] != 'L' {
				t.Errorf("a mapping of live has %q, want what was written to live", mapped[5000])
			}
			dev = n.attach(ctx, "disk", "--transport", transport)
			wantByte(t, "written by live, then attached", dev, 5000, 'L')
			write(dev, 'E', 4096)

			// The next daemon keeps it so.
			if transport == "ublk" {
				held, err := os.Open(dev)
				if err != nil {
					t.Fatal(err)
				}
				n.kill(ctx)
				n.serve(ctx)
				if f, err := os.OpenFile(live, os.O_RDWR, 0); !errors.Is(err, unix.EBUSY) {
					t.Errorf("live of a volume whose device was taken over opened for writing: %v, %v", f, err)
				}
				_ = held.Close()
			}
			wantByte(t, "written by the device", live, 5000, 'E')
			n.varve(ctx, "detach", "disk")
			unmap()
			n.varve(ctx, "umount", dir)
		})
	}
}

// TestSharedLive: with --shared-live both sides can be written at once, and neither the device's
// page cache nor mappings of the live file keep outdated data.
func TestSharedLive(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "16M")
	dir := n.fuse(ctx, "--shared-live")
	live := filepath.Join(dir, "volumes", "disk", "live")
	f, err := os.OpenFile(live, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	held, err := os.Open(dev) // keeps the device's pages
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	wantByte(t, "at first", dev, 5000, 0)
	if _, err := f.WriteAt(letters('L'), 4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	wantByte(t, "written by live and synced", dev, 5000, 'L')
	if _, err := f.WriteAt(letters('M'), 4096); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the device's cache shows what live wrote", func() bool {
		var got [1]byte
		_, err := held.ReadAt(got[:], 5000)
		return err == nil && got[0] == 'M'
	})

	mapped, _ := mapLive(t, live, 1<<20)
	if mapped[5000] != 'M' {
		t.Errorf("a mapping of live has %q, want what was written to live", mapped[5000])
	}
	writeAt(t, dev, letters('D')[:512], letters('D')[512:], 4096)
	eventually(t, time.Minute, "a mapping of live shows what the device wrote", func() bool { return mapped[5000] == 'D' })
	n.attachedRefused(ctx, dev)
}

// attachedRefused checks that a volume with a shared live file still has only one device.
func (n *node) attachedRefused(ctx context.Context, dev string) {
	n.t.Helper()
	n.refuse(ctx, []string{"disk", "attached as " + dev}, "attach", "disk")
}

// TestLiveFileAndDeviceAgree writes through the device and reads through the live file, and the
// other way round, sector by sector: no page cache keeps outdated data.
func TestLiveFileAndDeviceAgree(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "disk", "64M")
	dir := n.fuse(ctx, "--shared-live")
	live := filepath.Join(dir, "volumes", "disk", "live")
	device := openDirect(t, dev, os.O_RDWR)
	file, err := os.OpenFile(live, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	buf, back := aligned(t, 64<<10), aligned(t, 64<<10)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 400 {
		length := 512 * (1 + random.IntN(128))
		off := 512 * random.Int64N((64<<20-64<<10)/512)
		for j := range buf[:length] {
			buf[j] = byte(i + j>>9)
		}
		write, read := device, file
		if i%2 == 1 {
			write, read = file, device
		}
		// What is there now is read first, so that it may be in a cache.
		if _, err := read.ReadAt(back[:length], off); err != nil {
			t.Fatalf("step %d: read: %v", i, err)
		}
		if _, err := write.WriteAt(buf[:length], off); err != nil {
			t.Fatalf("step %d: write: %v", i, err)
		}
		if _, err := read.ReadAt(back[:length], off); err != nil {
			t.Fatalf("step %d: read: %v", i, err)
		}
		if !bytes.Equal(buf[:length], back[:length]) {
			t.Fatalf("step %d: %d bytes at %d written by %s are not read by %s", i, length, off, write.Name(), read.Name())
		}
	}
}
