package index

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/busfault"
)

func absorbs(t *testing.T) {
	t.Helper()
	if err := busfault.Absorb(); err != nil {
		t.Skip("faults end the process on this processor: ", err)
	}
}

// cut takes the pages of badger's files away from under it, as bad sectors do, and holes on a full
// disk.
func cut(t *testing.T, dir, pattern string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	must(t, err)
	if len(names) == 0 {
		t.Fatal("badger has no ", pattern)
	}
	for _, name := range names {
		must(t, os.Truncate(name, 0))
	}
}

// wantAnew closes an index that has met a fault, and wants the next opening to make a new one.
func wantAnew(t *testing.T, x Index, dir string) {
	t.Helper()
	must(t, x.Close())
	rebuilt := false
	o := small
	o.Rebuilt = func(error) { rebuilt = true }
	x = openDisk(t, dir, o)
	if !rebuilt {
		t.Error("an index that has met a fault is trusted when it is opened again")
	}
	if _, ok := x.Get(hash(0)); ok {
		t.Error("the new index knows something")
	}
	must(t, x.Put(entries(0, 100)))
	wantEntries(t, x, 0, 100)
	must(t, x.Close())
}

// badger appends to its log through a mapping. No room for a page of it: entries wait in memory
// from then on.
func TestLogWithoutRoom(t *testing.T) {
	absorbs(t)
	dir := t.TempDir()
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 100)))
	cut(t, dir, "*.mem")
	must(t, x.Put(entries(100, 1000)))
	wantEntries(t, x, 100, 1000)
	if n := x.(*disk).waiting.n.Load(); n != 900 {
		t.Errorf("%d entries wait in memory", n)
	}
	if err := x.MarkDone(1); !errors.Is(err, ErrNoSpace) {
		t.Errorf("mark after a fault: %v", err)
	}
	if x.Done(1) {
		t.Error("a mark that failed is there")
	}
	wantAnew(t, x, dir)
}

// Tables that can't be read: the answer is no, and not the end of the process.
func TestTablesUnreadable(t *testing.T) {
	absorbs(t)
	dir := t.TempDir()
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 20000)))
	must(t, x.MarkDone(3))
	must(t, x.Close())
	x = openDisk(t, dir, small)
	wantEntries(t, x, 0, 20000)
	cut(t, dir, "*.sst")
	for i := range 20000 {
		if p, ok := x.Get(hash(i)); ok && p != (Location{uint32(i), uint32(i) * 3}) {
			t.Fatalf("entry %d is at a wrong location: %+v", i, p)
		}
	}
	if !x.(*disk).suspect.Load() {
		t.Fatal("no fault was met")
	}
	if x.Done(3) {
		t.Error("a mark is read from a table that can't be read")
	}
	wantAnew(t, x, dir)
}

// A disk that others fill while badger writes.
func TestDiskFillsUnderBadger(t *testing.T) {
	absorbs(t)
	disk0 := t.TempDir()
	if err := unix.Mount("varve-test", disk0, "tmpfs", 0, "size=64m"); err != nil {
		t.Skip("no tmpfs can be mounted: ", err)
	}
	defer func() {
		if err := unix.Unmount(disk0, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	dir := filepath.Join(disk0, "index")
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 5000)))
	ballast, err := os.Create(filepath.Join(disk0, "ballast"))
	must(t, err)
	defer func() { _ = ballast.Close() }()
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	n := 5000
	for ; n < 200000 && !x.(*disk).broken.Load(); n += 500 {
		must(t, x.Put(entries(n, n+500)))
	}
	if !x.(*disk).suspect.Load() {
		t.Fatal("badger has not met the full disk")
	}
	must(t, x.Put(entries(n, n+500)))
	wantEntries(t, x, n, n+500)
	must(t, ballast.Truncate(0))
	must(t, x.Put(entries(n+500, n+1000)))
	wantEntries(t, x, n, n+1000)
	wantAnew(t, x, dir)
}

// An index whose note can't be written, for it is somebody else's file, is made anew: the directory
// is ours.
func TestNoteCantBeWritten(t *testing.T) {
	dir := t.TempDir()
	note := filepath.Join(dir, uncleanFile)
	must(t, os.Symlink("/sys/varve-test", note)) // a file system that takes no files
	rebuilt := false
	o := small
	o.Rebuilt = func(error) { rebuilt = true }
	x := openDisk(t, dir, o)
	if fi, err := os.Lstat(note); err != nil || !fi.Mode().IsRegular() || !rebuilt {
		t.Errorf("the note is %v (%v), made anew: %v", fi, err, rebuilt)
	}
	must(t, x.Close())
}

// No files and no memory left say nothing about the index: it stays, and opens the next time.
func TestPassingErrorKeepsIndex(t *testing.T) {
	dir := t.TempDir()
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 100)))
	must(t, x.Close())
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if ownFault(errors.New("badger: open 000001.sst: " + errno.Error())) {
			t.Errorf("%v: the index would be deleted", errno)
		}
	}
	var lim unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &lim))
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for few := range uint64(6) {
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(fds)) + few, Max: lim.Max}))
		x, err := Open(dir, small)
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lim))
		if err == nil {
			wantEntries(t, x, 0, 100)
			must(t, x.Close())
		} else if !errors.Is(err, ErrUnusable) {
			t.Errorf("%d descriptors left: %v", few, err)
		}
	}
	x = openDisk(t, dir, small)
	wantEntries(t, x, 0, 100)
	must(t, x.Close())
}
