package index

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// An index that was loaded has every entry, the marks, and nothing of before, and takes further ones.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	x := openDisk(t, dir, small)
	old := entryOf(1 << 30)
	if err := x.Put([]Entry{old}); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	all := make([]Entry, 100_000) // some batches
	for i := range all {
		all[i] = entryOf(uint32(i))
	}
	slices.SortFunc(all, func(a, b Entry) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	if err := Load(dir, small, slices.Values(all), []uint32{7, 9}); err != nil {
		t.Fatal(err)
	}
	x = openDisk(t, dir, small)
	for i := range all {
		if loc, ok := x.Get(&all[i].Hash); !ok || loc != all[i].Location {
			t.Fatalf("entry %d: %+v, %v, want %+v", i, loc, ok, all[i].Location)
		}
	}
	if _, ok := x.Get(&old.Hash); ok {
		t.Error("an entry of before is left")
	}
	if !x.Done(7) || !x.Done(9) || x.Done(8) {
		t.Errorf("segments 7, 8 and 9 are marked: %v, %v, %v", x.Done(7), x.Done(8), x.Done(9))
	}
	moved := Entry{all[0].Hash, Location{Segment: 11, Block: 12}}
	if err := x.Put([]Entry{moved}); err != nil {
		t.Fatal(err)
	}
	if err := x.Delete([][32]byte{all[1].Hash}); err != nil {
		t.Fatal(err)
	}
	if loc, ok := x.Get(&moved.Hash); !ok || loc != moved.Location {
		t.Errorf("an entry that was replaced is at %+v, %v", loc, ok)
	}
	if _, ok := x.Get(&all[1].Hash); ok {
		t.Error("an entry that was deleted is left")
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// entryOf returns an entry whose hash has no order.
func entryOf(i uint32) Entry {
	var e Entry
	binary.LittleEndian.PutUint32(e.Hash[:], i*2654435761)
	binary.LittleEndian.PutUint32(e.Hash[28:], i)
	e.Location = Location{Segment: i, Block: i + 1}
	return e
}
