package index

import (
	"encoding/binary"
	"testing"
)

func memEntry(i int) Entry {
	var e Entry
	binary.LittleEndian.PutUint64(e.Hash[:], uint64(i))
	e.Location = Location{Segment: 1, Block: uint32(i)}
	return e
}

// An index in memory with a bound has no more entries than that, the newest among them.
func TestMemIsBounded(t *testing.T) {
	const limit = 1000
	x := NewBoundedMem(limit)
	unbounded := NewMem()
	for i := range 10 * limit {
		e := memEntry(i)
		for _, x := range []Index{x, unbounded} {
			if err := x.Put([]Entry{e, e}); err != nil {
				t.Fatal(err)
			}
			if p, ok := x.Get(&e.Hash); !ok || p != e.Location {
				t.Fatalf("entry %d: %v, %v", i, p, ok)
			}
		}
	}
	if n := x.Bytes(); n > limit*40 {
		t.Errorf("%d bytes for at most %d entries", n, limit)
	}
	if n := unbounded.Bytes(); n != 10*limit*40 {
		t.Errorf("%d bytes without a bound", n)
	}
	found := 0
	for i := range 10 * limit {
		e := memEntry(i)
		if p, ok := x.Get(&e.Hash); ok {
			found++
			if p != e.Location {
				t.Errorf("entry %d is at %v", i, p)
			}
		}
	}
	if found != limit {
		t.Errorf("%d entries, want %d", found, limit)
	}
}
