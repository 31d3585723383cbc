package segment

import (
	"math/rand/v2"
	"testing"

	"varve/objstore/internal/merkle"
)

func randomHash(r *rand.Rand) (h merkle.Hash) {
	for i := 0; i < len(h); i += 8 {
		le.PutUint64(h[i:], r.Uint64())
	}
	return h
}

// A sketch denies nothing that its footer has, seldom admits what it has not, and stays within the bound.
func TestSketches(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	objs := make([]Object, 16<<10)
	for i := range objs {
		objs[i] = Object{Hash: randomHash(r), Block: uint32(i + 1), Length: 4096, Kind: merkle.KindChunk}
	}
	var s Sketches
	one := func(h merkle.Hash) map[merkle.Hash]bool { return map[merkle.Hash]bool{h: true} }
	if !s.MayHave(7, one(randomHash(r))) {
		t.Error("a footer that was never read is said to lack an object")
	}
	s.Add(7, EncodeObjects(objs))
	for _, o := range objs {
		if !s.MayHave(7, one(o.Hash)) {
			t.Fatalf("the object at block %d is denied", o.Block)
		}
	}
	admitted := 0
	for range 1 << 18 {
		if s.MayHave(7, one(randomHash(r))) {
			admitted++
		}
	}
	if admitted > 20 { // 5 or 6 to be expected
		t.Errorf("%d of %d objects that are not there are admitted", admitted, 1<<18)
	}
	size := s.Bytes()
	if size > 16<<10*3+8 {
		t.Errorf("the sketch of 16 Ki objects takes %d bytes", size)
	}
	for id := uint32(8); id < 8+2*sketchBytes/(48<<10); id++ {
		s.Add(id, EncodeObjects(objs[:16<<10]))
		if s.Bytes() > sketchBytes+size {
			t.Fatalf("sketches take %d bytes", s.Bytes())
		}
		if s.Bytes() > sketchBytes {
			break
		}
	}
	if s.Bytes() < sketchBytes {
		t.Errorf("sketches take no more than %d bytes", s.Bytes())
	}
	if s.Drop(7); s.Bytes() > sketchBytes || !s.MayHave(7, one(randomHash(r))) {
		t.Error("a sketch that was dropped is still there")
	}
}
