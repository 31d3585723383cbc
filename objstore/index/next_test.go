package index

import (
	"os"
	"path/filepath"
	"testing"
)

func entry(b byte) Entry {
	return Entry{Hash: [32]byte{b}, Location: Location{Segment: uint32(b), Block: 1}}
}

func openIn(t *testing.T, dir string) Index {
	t.Helper()
	ix, err := Open(dir, Options{MinFree: -1})
	must(t, err)
	return ix
}

// knows fails unless the index in a directory has one entry and not the other.
func knows(t *testing.T, ix Index, want, not byte) {
	t.Helper()
	w, n := entry(want), entry(not)
	if p, ok := ix.Get(&w.Hash); !ok || p != w.Location {
		t.Errorf("entry %d: %v, %v", want, p, ok)
	}
	if p, ok := ix.Get(&n.Hash); ok {
		t.Errorf("entry %d, which is none of its: %v", not, p)
	}
}

// An index is replaced while it is open, and both are used until then; afterwards each goes on in
// its own files.
func TestNextReplaces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	old := openIn(t, dir)
	must(t, old.Put([]Entry{entry(1)}))
	n, err := OpenNext(dir, Options{MinFree: -1})
	must(t, err)
	must(t, n.Put([]Entry{entry(2)}))
	if !HasNext(dir) {
		t.Error("there is no next index")
	}
	must(t, n.Install())
	must(t, old.Put([]Entry{entry(3)})) // it writes to its own directory, wherever that is
	knows(t, old, 1, 2)
	knows(t, n, 2, 1)
	must(t, old.Close())
	must(t, RemoveOld(dir))
	must(t, n.MarkDone(7))
	must(t, n.Close())
	left, err := os.ReadDir(filepath.Dir(dir))
	must(t, err)
	if len(left) != 1 || left[0].Name() != "index" {
		t.Errorf("left are %v", left)
	}
	ix := openIn(t, dir)
	knows(t, ix, 2, 1)
	knows(t, ix, 2, 3)
	if !ix.Done(7) {
		t.Error("the mark is lost")
	}
	must(t, ix.Close())
}

// A process that dies in the middle of Install leaves one index or the other, whole.
func TestInstallInterrupted(t *testing.T) {
	for state, want := range map[string]byte{"before": 1, "between": 2, "after": 2} {
		t.Run(state, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "index")
			for path, e := range map[string]byte{dir: 1, nextDir(dir): 2} {
				ix := openIn(t, path)
				must(t, ix.Put([]Entry{entry(e)}))
				must(t, ix.Close())
			}
			if state != "before" {
				must(t, os.Rename(dir, oldDir(dir)))
			}
			if state == "after" {
				must(t, os.Rename(nextDir(dir), dir))
			}
			ix := openIn(t, dir)
			knows(t, ix, want, 3-want)
			must(t, ix.Close())
			if _, err := os.Stat(oldDir(dir)); err == nil {
				t.Error("the index that was replaced is still there")
			}
			if HasNext(dir) != (state == "before") {
				t.Errorf("there is a next index: %v", HasNext(dir))
			}
			if state == "before" { // it goes on with what it has
				n, err := OpenNext(dir, Options{MinFree: -1})
				must(t, err)
				knows(t, n, 2, 1)
				must(t, n.Discard())
			}
			if HasNext(dir) {
				t.Error("the next index is still there")
			}
		})
	}
}

// The link to an index elsewhere is not replaced.
func TestNextOfLink(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	must(t, os.Symlink(t.TempDir(), dir))
	if n, err := OpenNext(dir, Options{MinFree: -1}); err == nil {
		t.Errorf("%+v", n)
	}
}
