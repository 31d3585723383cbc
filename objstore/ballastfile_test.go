package objstore

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"varve/objstore/vfs"
)

// ballastOn returns a ballast of 1 MiB on a file system, and what it logs.
func ballastOn(fs vfs.FS) (*ballast, *bytes.Buffer) {
	var log bytes.Buffer
	b := newBallast(fs, 16<<20, 4<<20, func() bool { return false }, slog.New(slog.NewTextHandler(&log, nil)))
	b.size = 1 << 20
	return b, &log
}

// allocated makes a file of the ballast's name that takes so many bytes.
func allocated(t *testing.T, fs vfs.FS, bytes int64) {
	t.Helper()
	f, err := fs.Create(ballastFile)
	must(t, err)
	must(t, f.Allocate(0, bytes))
	must(t, f.Close())
}

// wantBallast wants the ballast to take so many bytes, and the file to occupy them.
func wantBallast(t *testing.T, what string, b *ballast, held, occupied int64) {
	t.Helper()
	used, err := b.fs.Used(ballastFile)
	if err != nil && occupied > 0 {
		t.Errorf("%s: %v", what, err)
	}
	if got := b.held.Load(); got != held || used != occupied {
		t.Errorf("%s: %d bytes are held, and the file occupies %d; want %d and %d", what, got, used, held, occupied)
	}
}

// A file that an earlier process has left counts, with the room to make it whole or without: what it
// has can be given up.
func TestBallastThatIsThere(t *testing.T) {
	for _, c := range []struct {
		name           string
		bytes          int64
		full           bool
		held, occupied int64
	}{
		{name: "whole", bytes: 1 << 20, held: 1 << 20, occupied: 1 << 20},
		{name: "whole on a full disk", bytes: 1 << 20, full: true, held: 1 << 20, occupied: 1 << 20},
		{name: "shorter", bytes: 256 << 10, held: 1 << 20, occupied: 1 << 20},
		{name: "shorter on a full disk", bytes: 256 << 10, full: true, held: 256 << 10, occupied: 256 << 10},
		{name: "longer", bytes: 3 << 20, held: 1 << 20, occupied: 3 << 20},
		{name: "empty", held: 1 << 20, occupied: 1 << 20},
		{name: "empty on a full disk", full: true},
	} {
		mem := vfs.NewMem(0)
		_, before, err := mem.Space()
		must(t, err)
		allocated(t, mem, c.bytes)
		total, free, err := mem.Space()
		must(t, err)
		if c.full {
			mem.SetSpace(total - free)
		}
		b, _ := ballastOn(mem)
		b.keep()
		wantBallast(t, c.name, b, c.held, c.occupied)
		if dropped := b.drop(); dropped != (c.held > 0) {
			t.Errorf("%s: it was given up: %v", c.name, dropped)
		}
		mem.SetSpace(total)
		if _, free, _ := mem.Space(); c.held > 0 && free != before {
			t.Errorf("%s: %d bytes are free, before there were %d", c.name, free, before)
		}
	}
}

// What others have put under the name is left alone: the target of a link above all.
func TestBallastIsNotAnothersFile(t *testing.T) {
	for _, kind := range []string{"symbolic link", "hard link", "dangling link", "full directory", "empty directory"} {
		dir := t.TempDir()
		store, other := filepath.Join(dir, "store"), filepath.Join(dir, "other")
		must(t, os.Mkdir(store, 0o700))
		want := bytes.Repeat([]byte("not the store's "), 1<<17)
		must(t, os.WriteFile(other, want, 0o600))
		name := filepath.Join(store, ballastFile)
		switch kind {
		case "symbolic link":
			must(t, os.Symlink(other, name))
		case "hard link":
			must(t, os.Link(other, name))
		case "dangling link":
			must(t, os.Symlink(filepath.Join(dir, "nothing"), name))
		default:
			must(t, os.Mkdir(name, 0o700))
		}
		if kind == "full directory" {
			must(t, os.WriteFile(filepath.Join(name, "file"), want, 0o600))
		}
		b, log := ballastOn(vfs.OS(store))
		for range 3 {
			b.keep()
			b.drop()
			b.keep()
		}
		if got, err := os.ReadFile(other); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another's file has %d bytes, or other ones: %v", kind, len(got), err)
		}
		if kind == "full directory" {
			if n := strings.Count(log.String(), "no room is kept"); n != 1 {
				t.Errorf("%s: it was logged %d times: %s", kind, n, log)
			}
			continue
		}
		if fi, err := os.Lstat(name); err != nil || !fi.Mode().IsRegular() || b.held.Load() != b.size {
			t.Errorf("%s: %d bytes are held in %v, %v", kind, b.held.Load(), fi, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "nothing")); err == nil {
			t.Errorf("%s: the target was made", kind)
		}
	}
}

// Of two that find no room at the same time, each is told that there is some now.
func TestBallastIsDroppedForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		removing, goOn := make(chan struct{}), make(chan struct{})
		var armed atomic.Bool
		b, _ := ballastOn(vfs.Inject(vfs.NewMem(0), func(op vfs.Op) error {
			if op.Kind == vfs.OpRemove && armed.CompareAndSwap(true, false) {
				close(removing)
				<-goOn
			}
			return nil
		}))
		b.keep()
		armed.Store(true)
		got := make(chan bool, 2)
		go func() { got <- b.drop() }()
		<-removing
		go func() { got <- b.drop() }()
		synctest.Wait()
		b.keep() // does not wait
		close(goOn)
		if first, second := <-got, <-got; !first || !second {
			t.Errorf("dropped: %v, %v", first, second)
		}
		if b.drop() {
			t.Error("there was room to be given up once more")
		}
	})
}

// Each operation of making and dropping it fails, for want of room, by a quota, or otherwise: what is
// said to be held is what the file has, and it comes when there is room.
func TestBallastThatFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO} {
		for n := int32(0); ; n++ {
			var count atomic.Int32
			count.Store(-100)
			mem := vfs.NewMem(0)
			b, log := ballastOn(vfs.Inject(mem, func(op vfs.Op) error {
				if op.Kind == vfs.OpRead || count.Add(1)-1 != n {
					return nil
				}
				return errno
			}))
			allocated(t, mem, 4096)
			count.Store(0)
			b.keep()
			b.drop()
			b.keep()
			used, err := mem.Used(ballastFile)
			if held := b.held.Load(); held != min(used, b.size) {
				t.Errorf("%v at operation %d: %d bytes are held, and the file has %d (%v)", errno, n, held, used, err)
			}
			if errno != syscall.EIO && strings.Contains(log.String(), "no room is kept") {
				t.Errorf("%v at operation %d: %s", errno, n, log)
			}
			failed := count.Load() > n
			b.keep()
			wantBallast(t, errno.Error(), b, b.size, b.size)
			if !failed {
				break
			}
		}
	}
}

// A crash at each operation of making and dropping it leaves nothing that the next process can't use.
func TestEveryCutOfBallast(t *testing.T) {
	for n := int64(0); ; n++ {
		mem := vfs.NewMem(n % 3)
		allocated(t, mem, 64<<10)
		mem.CutAt(mem.Ops() + n)
		b, _ := ballastOn(mem)
		b.keep()
		b.drop()
		b.keep()
		cut := mem.WasCut()
		for i, after := range []*vfs.Mem{mem.Kill(), mem.PowerCut(rand.New(rand.NewPCG(uint64(n), 1))), mem.PowerCut(rand.New(rand.NewPCG(uint64(n), 2)))} {
			b, log := ballastOn(after)
			b.keep()
			wantBallast(t, "after a crash", b, b.size, b.size)
			if !b.drop() || log.Len() > 0 && strings.Contains(log.String(), "WARN") {
				t.Errorf("cut at %d, disk %d: it is not given up: %s", n, i, log)
			}
			if _, err := after.Open(ballastFile); err == nil {
				t.Errorf("cut at %d, disk %d: it is there still", n, i)
			}
		}
		if !cut {
			break
		}
	}
}

// One that somebody has removed, or cut off, does not count as room, and is made again; but not while
// a collection may need the room.
func TestBallastThatGoesMissing(t *testing.T) {
	mem := vfs.NewMem(0)
	b, _ := ballastOn(mem)
	wanted := false
	b.wanted = func() bool { return wanted }
	b.keep()
	must(t, mem.Remove(ballastFile))
	wanted = true
	b.keep()
	wantBallast(t, "while a collection runs", b, 0, 0)
	wanted = false
	b.keep()
	wantBallast(t, "afterwards", b, b.size, b.size)
	f, err := mem.Open(ballastFile)
	must(t, err)
	must(t, f.Truncate(8192))
	must(t, f.(io.Closer).Close())
	b.keep()
	wantBallast(t, "after it was cut off", b, b.size, b.size)
}
