package object

import (
	"testing"

	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// Absentees are bounded, are forgotten when a repair generation begins, and are not believed of
// what was stored while it was looked for.
func TestAbsentees(t *testing.T) {
	var a absentees
	h := func(i int) merkle.Hash { return merkle.Hash{1, byte(i), byte(i >> 8), byte(i >> 16)} }
	absent := func(i int) bool { _, ok := a.has(h(i)); return ok }
	gen := a.begin(0)
	a.add(map[merkle.Hash]bool{h(1): true, h(2): true}, nil, gen)
	if !absent(1) || !absent(2) || absent(3) {
		t.Fatal("it does not know what it was told")
	}
	gen = a.begin(0)
	if !a.remove([]segment.Object{{Hash: h(1)}, {Hash: h(7)}}) || absent(1) || !absent(2) {
		t.Error("what was stored is absent, or what was not is not")
	}
	if a.remove([]segment.Object{{Hash: h(1)}}) {
		t.Error("what nobody has looked for was missed")
	}
	if a.add(map[merkle.Hash]bool{h(3): true}, nil, gen); absent(3) {
		t.Error("an object that may have been stored while it was looked for is absent")
	}
	a.begin(1)
	if absent(2) {
		t.Error("a repair generation has begun, and it is absent still")
	}
	many := map[merkle.Hash]bool{}
	for i := range maxAbsent + 1000 {
		many[h(i)] = true
	}
	if a.add(many, nil, a.begin(1)); a.hashes.Len() > maxAbsent {
		t.Errorf("%d are remembered", a.hashes.Len())
	}
}
