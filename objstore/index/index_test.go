package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hash(i int) *[32]byte {
	var h [32]byte
	binary.BigEndian.PutUint64(h[i%24:], uint64(i)*0x9e3779b97f4a7c15+1)
	binary.BigEndian.PutUint64(h[24:], uint64(i))
	return &h
}

func entries(from, to int) []Entry {
	var list []Entry
	for i := from; i < to; i++ {
		list = append(list, Entry{*hash(i), Location{uint32(i), uint32(i) * 3}})
	}
	return list
}

func wantEntries(t *testing.T, x Index, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if p, ok := x.Get(hash(i)); !ok || p != (Location{uint32(i), uint32(i) * 3}) {
			t.Fatalf("entry %d: %+v, %v", i, p, ok)
		}
	}
}

// small makes badger turn its tables over early.
var small = Options{MemTable: 1 << 20, MinFree: -1}

func openDisk(t *testing.T, dir string, o Options) Index {
	t.Helper()
	x, err := Open(dir, o)
	must(t, err)
	return x
}

// One suite for all implementations; reopen closes and opens.
func TestIndex(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a", "index")
		conformance(t, openDisk(t, dir, small), func(x Index) Index {
			must(t, x.Close())
			o := small
			o.Rebuilt = func(cause error) { t.Fatalf("rebuilt: %v", cause) }
			return openDisk(t, dir, o)
		})
	})
	t.Run("mem", func(t *testing.T) {
		conformance(t, NewMem(), func(x Index) Index { must(t, x.Close()); return x })
	})
}

func conformance(t *testing.T, x Index, reopen func(Index) Index) {
	if _, ok := x.Get(hash(1)); ok {
		t.Fatal("an empty index knows something")
	}
	must(t, x.Put(nil))
	must(t, x.Put(entries(0, 1000)))
	wantEntries(t, x, 0, 1000)
	must(t, x.Sync())
	if x.Done(7) {
		t.Fatal("7 is done")
	}
	must(t, x.MarkDone())
	must(t, x.MarkDone(7, 1<<31, 0xffffffff))
	for _, s := range []uint32{7, 1 << 31, 0xffffffff} {
		if !x.Done(s) {
			t.Fatalf("%d is not done", s)
		}
	}
	must(t, x.Forget(7))
	must(t, x.Forget(8))
	if x.Done(7) {
		t.Fatal("7 is done")
	}
	must(t, x.Put([]Entry{{*hash(5), Location{1, 2}}, {*hash(5), Location{3, 4}}}))
	x = reopen(x)
	if p, _ := x.Get(hash(5)); p != (Location{3, 4}) {
		t.Fatalf("replaced entry: %+v", p)
	}
	if x.Done(7) || !x.Done(1<<31) {
		t.Fatal("marks changed")
	}
	must(t, x.Put(entries(5, 6)))
	var wg sync.WaitGroup
	for w := 0; w < 4; w++ { // enough for several tables
		wg.Go(func() {
			for i := 1000 + w*10000; i < 1000+(w+1)*10000; i += 500 {
				if err := x.Put(entries(i, i+500)); err != nil {
					t.Error(err)
				}
				wantEntriesSoftly(t, x, i, i+500)
			}
		})
	}
	wg.Wait()
	must(t, x.Sync())
	wantEntries(t, x, 0, 41000)
	if n := x.Bytes(); n < 41000*40 || n > 1<<30 {
		t.Fatalf("%d bytes", n)
	}
	x = reopen(x)
	wantEntries(t, x, 0, 41000)
	must(t, x.Close())
}

func wantEntriesSoftly(t *testing.T, x Index, from, to int) {
	for i := from; i < to; i++ {
		if p, ok := x.Get(hash(i)); !ok || p.Segment != uint32(i) {
			t.Errorf("entry %d: %+v, %v", i, p, ok)
		}
	}
}

// copyDir is what kill -9 leaves: the page cache.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	must(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 2000)))
	must(t, x.MarkDone(3))
	killed := copyDir(t, dir)
	must(t, x.Close())
	o := small
	o.Rebuilt = func(cause error) { t.Fatalf("rebuilt: %v", cause) }
	y := openDisk(t, killed, o)
	wantEntries(t, y, 0, 2000)
	if !y.Done(3) {
		t.Fatal("mark lost")
	}
	must(t, y.Close())
}

func TestLockedIsNotDeleted(t *testing.T) {
	dir := t.TempDir()
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 10)))
	o := small
	o.Rebuilt = func(error) { t.Fatal("rebuilt") }
	if _, err := Open(dir, o); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	must(t, x.Close())
	x = openDisk(t, dir, o)
	wantEntries(t, x, 0, 10)
	must(t, x.Close())
}

// Every file of a closed index, damaged in every way, gives a working index: the old one or a new
// one, never wrong locations.
func TestEveryDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := openDisk(t, dir, small)
	must(t, x.Put(entries(0, 3000)))
	must(t, x.Close())
	x = openDisk(t, dir, small)
	must(t, x.Put(entries(3000, 4000)))
	open := copyDir(t, dir) // with a log in use
	must(t, x.Close())
	rebuilt := 0
	for _, state := range []string{open, dir} {
		files, err := os.ReadDir(state)
		must(t, err)
		for _, f := range files {
			for _, how := range []string{"truncate", "empty", "zero", "flip", "delete"} {
				t.Run(f.Name()+"/"+how, func(t *testing.T) {
					damaged := copyDir(t, state)
					damage(t, filepath.Join(damaged, f.Name()), how)
					o := small
					o.Rebuilt = func(error) { rebuilt++ }
					checkDamaged(t, damaged, o)
				})
			}
		}
	}
	if rebuilt < 5 {
		t.Fatalf("only %d rebuilt", rebuilt)
	}
}

func damage(t *testing.T, path, how string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	switch how {
	case "truncate":
		b = b[:len(b)/2]
	case "empty":
		b = nil
	case "zero":
		clear(b)
	case "flip":
		for i := 0; i < len(b); i += 1 + len(b)/20 {
			b[i] ^= 0x10
		}
	case "delete":
		must(t, os.Remove(path))
		return
	}
	must(t, os.WriteFile(path, b, 0o600))
}

func checkDamaged(t *testing.T, dir string, o Options) {
	t.Helper()
	x := openDisk(t, dir, o)
	for i := 0; i < 4000; i++ {
		if p, ok := x.Get(hash(i)); ok && p != (Location{uint32(i), uint32(i) * 3}) {
			t.Fatalf("entry %d is at a wrong location: %+v", i, p)
		}
	}
	must(t, x.Put(entries(0, 100)))
	wantEntries(t, x, 0, 100)
	must(t, x.Close())
	x = openDisk(t, dir, o)
	must(t, x.Put(entries(0, 4000)))
	wantEntries(t, x, 0, 4000)
	must(t, x.Close())
}

func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	x := openDisk(t, dir, small)
	d := x.(*disk)
	d.opts.MinFree, d.opts.Waiting = 1<<60, 100
	must(t, x.Put(entries(0, 60)))
	if err := x.Put(entries(60, 160)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("put on a full disk: %v", err)
	}
	wantEntries(t, x, 0, 60) // from memory
	if err := x.MarkDone(1); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("mark on a full disk: %v", err)
	}
	d.opts.MinFree = -1
	must(t, x.Put(entries(60, 160)))
	if n := d.waiting.n.Load(); n != 0 {
		t.Fatalf("%d entries wait in memory although there is room", n)
	}
	wantEntries(t, x, 0, 160)
	must(t, x.MarkDone(1))
	must(t, x.Close())
	x = openDisk(t, dir, small)
	wantEntries(t, x, 0, 160)
	x.(*disk).opts.MinFree = 1 << 60
	must(t, x.Close()) // does not wait for room
	if _, err := Open(dir, Options{MinFree: 1 << 60}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("open on a full disk: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil || !strings.HasPrefix(dir, "/") {
		t.Fatal("the directory is gone")
	}
}

func BenchmarkGetMissing(b *testing.B) {
	x, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	if err := x.Put(entries(0, 400000)); err != nil {
		b.Fatal(err)
	}
	i := 400000
	for b.Loop() {
		x.Get(hash(i))
		i++
	}
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkPut(b *testing.B) {
	x, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		if err := x.Put(entries(i, i+256)); err != nil {
			b.Fatal(err)
		}
		i += 256
	}
	b.ReportMetric(256, "entries/op")
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}

// A wall clock that is set must not cost processor: badger's caches, which go through the seconds
// in between one by one, are not used, and do not run.
func TestNoCacheRuns(t *testing.T) {
	x := openDisk(t, t.TempDir(), Options{})
	defer x.Close()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if bytes.Contains(stacks, []byte("ristretto/v2.(*Cache")) {
		t.Errorf("a cache of ristretto runs:\n%s", stacks)
	}
}
