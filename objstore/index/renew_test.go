package index

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A broken index is replaced beside its remains, which the next opening tidies up; a file of
// somebody else's stays.
func TestRenew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	o := Options{MemTable: 1 << 20, MinFree: -1}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, err := Open(dir, o)
	must(err)
	e := Entry{Hash: [32]byte{1}, Location: Location{2, 3}}
	must(first.Put([]Entry{e}))
	d := first.(*disk)
	if d.Broken() {
		t.Fatal("a new index is broken")
	}
	d.giveUp(errors.New("a fault"))
	if _, ok := first.Get(&e.Hash); ok || !d.Broken() {
		t.Fatal("a broken index answers")
	}
	second, err := d.Renew()
	must(err)
	if _, ok := second.Get(&e.Hash); ok {
		t.Error("a new index is not empty")
	}
	must(second.Put([]Entry{e}))
	if p, ok := second.Get(&e.Hash); !ok || p != e.Location {
		t.Errorf("the new index answers %v %v", p, ok)
	}
	must(second.Close())
	must(first.Close())
	stray := filepath.Join(dir, secondDir, "mine")
	must(os.WriteFile(stray, nil, 0o600))
	for range 2 {
		again, err := Open(dir, o)
		must(err)
		must(again.Close())
		if _, err := os.Stat(stray); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, secondDir, "MANIFEST")); err == nil {
			t.Error("the index that was made anew is left")
		}
	}
	must(os.Remove(stray))
	again, err := Open(dir, o)
	must(err)
	must(again.Close())
	if _, err := os.Stat(filepath.Join(dir, secondDir)); err == nil {
		t.Error("its directory is left")
	}
}
