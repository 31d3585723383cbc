package merkle

import (
	"bytes"
	"testing"
)

func FuzzNode(f *testing.F) {
	f.Add(goldenNode().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeNode(b); err == nil && !bytes.Equal(n.Encode(), b) {
			t.Fatal("a node has two encodings")
		}
	})
}

func FuzzRoot(f *testing.F) {
	f.Add(goldenRoot().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRoot(b)
		if err != nil {
			return
		}
		again, err := DecodeRoot(r.Encode())
		if err != nil || *again != *r {
			t.Fatalf("%+v becomes %+v, %v", r, again, err)
		}
	})
}
