package merkle

import (
	"bytes"
	"testing"

	"varve/objstore/internal/golden"
)

func hashOf(b byte) Hash { return Hash(bytes.Repeat([]byte{b}, HashSize)) }

func goldenRoot() *Root {
	return &Root{ChunkSize: 16384, Size: 10 << 30, Depth: Depth(10<<30, 16384), Top: hashOf(0xb1)}
}

func goldenNode() *Node { return &Node{0: hashOf(0xc0), 2: hashOf(0xc2)} }

func TestGoldenRoot(t *testing.T) {
	b := goldenRoot().Encode()
	golden.Check(t, "root", b)
	r, err := DecodeRoot(b)
	if err != nil || *r != *goldenRoot() {
		t.Errorf("decoded as %+v, %v", r, err)
	}
}

func TestGoldenNode(t *testing.T) {
	b := goldenNode().Encode()
	golden.Check(t, "node", b)
	n, err := DecodeNode(b)
	if err != nil || *n != *goldenNode() {
		t.Errorf("decoded as %v, %v", n, err)
	}
}

// The hash of an object is as much a part of the format as its encoding is.
func TestGoldenSums(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		want string
	}{
		{KindChunk, "b6c53dc6bcd09a79138007bc1a477217cbb567990884de30a976569402024db7"},
		{KindRoot, "8a00110838e9c7f9c1a81ab99a0cf269bea3834e77b674207712a87ce9ece8df"},
		{NodeKind(1), "920ed3bfc13354fb0964a81592518e6c366de6592227748e6dd8797cbd2d51f5"},
		{NodeKind(2), "3732ee2e4758b44ab66e68e356f331c0a2e8ed36c525ac64900434a0e6670525"},
	} {
		if got := Sum(c.kind, []byte("varve")).String(); got != c.want {
			t.Errorf("hash of a %v: %s, want %s", c.kind, got, c.want)
		}
	}
}
