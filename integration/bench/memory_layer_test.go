package main

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"varve/objstore"
	"varve/objstore/vfs"
)

// TestRegenerating: a store on the layer reads what was written, its own data and any other,
// settled or not, and its files do not hold what the layer can make again.
func TestRegenerating(t *testing.T) {
	const chunk, unit = 16 << 10, 1 << 20
	dir := t.TempDir()
	if err := objstore.Init(dir, objstore.InitOptions{ChunkSize: chunk}); err != nil {
		t.Fatal(err)
	}
	gen := newGenerator(chunk)
	s, err := objstore.Open(t.Context(), dir, objstore.Options{FS: &regenerating{vfs.OS(dir), gen}, SettleDelay: -1, SegmentSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const size = 32 * unit
	if _, err := s.CreateVolume(t.Context(), "v", objstore.VolumeOptions{Size: size, Verify: true}); err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume("v", "test")
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	compare := func(when string) {
		t.Helper()
		got := make([]byte, size)
		if _, err := v.ReadAt(got, 0); err != nil {
			t.Fatal(when, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatal(when, "other bytes")
		}
		for _, off := range []int{5000, 3*unit + chunk - 7, 17*unit + 511} {
			if _, err := v.ReadAt(got[:9000], int64(off)); err != nil || !bytes.Equal(got[:9000], want[off:off+9000]) {
				t.Fatal(when, "part at", off, err)
			}
		}
	}
	write := func(off int, b []byte) {
		t.Helper()
		copy(want[off:], b)
		if _, err := v.WriteAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, unit)
	for i := range size / unit {
		gen.fill(b, uint64(i*unit/chunk+1))
		write(i*7%32*unit, b)
	}
	compare("written")
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare("settled")
	other := make([]byte, 3*chunk)
	_, _ = random.Read(other)
	for _, off := range []int{0, 5*unit + 512, 9*unit + chunk} {
		write(off, other)
	}
	compare("written over")
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare("settled again")
	st, err := s.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st.Stored < size || st.Used > size/4 {
		t.Errorf("%d bytes of chunks, and %d on the disk: want all of the first and little of the second", st.Stored, st.Used)
	}
}
