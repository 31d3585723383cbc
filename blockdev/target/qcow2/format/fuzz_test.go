package format

import (
	"encoding/binary"
	"errors"
	"testing"

	"varve/uring/queue"
)

// image is a header as qemu-img writes it: version 3, a backing file, its format, feature names.
func image() []byte {
	b := make([]byte, 4096)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint64(b[8:], 1024)
	be.PutUint32(b[16:], 4)
	be.PutUint32(b[20:], 12)
	be.PutUint64(b[24:], 1<<20)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 3<<12)
	be.PutUint64(b[48:], 1<<12)
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 112)
	ext := b[112:]
	be.PutUint32(ext, extBackingFormat)
	be.PutUint32(ext[4:], 3)
	copy(ext[8:], "raw")
	be.PutUint32(ext[16:], extFeatureNames)
	be.PutUint32(ext[20:], 48)
	ext[25] = 7
	copy(ext[26:], "seventh")
	copy(b[1024:], "base")
	return b
}

const imageSize = 16 << 12

func TestHeader(t *testing.T) {
	h, err := ParseHeader(image(), imageSize)
	want := Header{
		Geometry: Geometry{Version: 3, ClusterBits: 12, Size: 1 << 20, RefcountBits: 4},
		Backing:  "base", BackingFormat: "raw", L1Entries: 1, L1Offset: 3 << 12, RefTable: 1 << 12, RefClusters: 1,
	}
	if err != nil || h != want {
		t.Errorf("%+v, %v, want %+v", h, err, want)
	}
	b := image()
	b[79] = 1 << 7
	if _, err := ParseHeader(b, imageSize); !errors.Is(err, ErrUnsupported) || err.Error() != `invalid: qcow2 image: unknown incompatible features 7 ("seventh")` {
		t.Errorf("an unknown feature: %v", err)
	}
}

// Refcounts of each width are where the specification has them, and leave their neighbours alone.
func TestRefcounts(t *testing.T) {
	for bits := range uint(7) {
		g := Geometry{ClusterBits: 9, RefcountBits: bits}
		block := make([]byte, 512)
		for i := range g.PerBlock() {
			g.PutRefcount(block, i, uint64(i)*0x9e3779b97f4a7c15&g.MaxRefcount())
		}
		for i := range g.PerBlock() {
			if got, want := g.Refcount(block, i), uint64(i)*0x9e3779b97f4a7c15&g.MaxRefcount(); got != want {
				t.Fatalf("%d bits: refcount %d is %d, want %d", 1<<bits, i, got, want)
			}
		}
	}
	b := make([]byte, 512)
	g := Geometry{ClusterBits: 9, RefcountBits: 1}
	g.PutRefcount(b, 1, 3)
	if b[0] != 0b1100 {
		t.Errorf("the second of two bits each: %08b", b[0])
	}
}

func TestEntries(t *testing.T) {
	g := Geometry{Version: 3, ClusterBits: 16}
	if c := g.Packed(Entry{Word: 1<<62 | 3<<54 | 0x50100}); c != (Packed{0x50100, 4*512 - 0x100}) {
		t.Errorf("compressed cluster %+v", c)
	}
	g.Extended = true
	e := g.Grained(Entry{}, 4, 8, Stored, 1<<16)
	e = g.Grained(e, 6, 10, Zero, 1<<16)
	if e != (Entry{1<<16 | Copied, 0x30 | 0x3c0<<32}) {
		t.Errorf("subclusters %#x %#x", e.Word, e.Bitmap)
	}
	for _, c := range []struct {
		grain int
		state State
		run   int
	}{{0, Unallocated, 4}, {4, Stored, 2}, {6, Zero, 4}, {9, Zero, 1}, {10, Unallocated, 22}} {
		if s, n := g.At(e, c.grain); s != c.state || n != c.run {
			t.Errorf("subcluster %d: state %d for %d, want %d for %d", c.grain, s, n, c.state, c.run)
		}
	}
}

// Whatever an image says, decoders neither panic nor let a table lie beyond the file.
func FuzzHeader(f *testing.F) {
	f.Add(image(), int64(imageSize))
	v2 := image()
	v2[7] = 2
	f.Add(v2, int64(imageSize))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		h, err := ParseHeader(b, size)
		if err != nil {
			if !errors.Is(err, queue.ErrInvalid) && !errors.Is(err, ErrNoImage) {
				t.Fatal(err)
			}
			return
		}
		if h.L1Offset+int64(h.L1Entries)*8 > size || h.RefTable+int64(h.RefClusters)<<h.ClusterBits > size || h.Size <= 0 ||
			h.L1Needed() > int64(h.L1Entries) || len(h.Backing) > maxBackingName {
			t.Fatalf("%+v of a file of %d bytes", h, size)
		}
	})
}

// An entry that is allowed names a cluster in the file.
func FuzzEntry(f *testing.F) {
	f.Add(uint64(Copied|5<<16), uint64(0), uint8(16), true)
	f.Add(uint64(compressed|5), uint64(0), uint8(9), false)
	f.Fuzz(func(t *testing.T, word, bitmap uint64, bits uint8, extended bool) {
		g := Geometry{Version: 3, ClusterBits: MinClusterBits + uint(bits)%(MaxClusterBits-MinClusterBits+1), Extended: extended}
		const size = 1 << 40
		e := Entry{word, bitmap}
		if off, _, err := g.L1(word, size); err == nil && (off < 0 || off > size-g.ClusterSize() && off != 0) {
			t.Fatalf("L2 table at %d", off)
		}
		if g.Check(e, size) != nil {
			return
		}
		if c := g.Packed(e); e.Compressed() && (c.Off < 0 || c.Off >= size || c.Len <= 0 || int64(c.Len) > 2*g.ClusterSize()+512) {
			t.Fatalf("%+v", c)
		}
		for grain := 0; grain < g.Grains(); {
			state, n := g.At(e, grain)
			if n <= 0 || grain+n > g.Grains() || state == Stored && (e.Host() <= 0 || e.Host() >= size) {
				t.Fatalf("grain %d: state %d for %d, at %d", grain, state, n, e.Host())
			}
			grain += n
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	b := make([]byte, 64)
	binary.BigEndian.PutUint64(b, 1<<16)
	b[11], b[13], b[15] = 1, 1, 3
	copy(b[40:], "1one")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		g := Geometry{Version: 3, ClusterBits: 16}
		s, n, err := g.ParseSnapshot(b, 1<<20)
		if err == nil && (n <= 0 || n > len(b) || s.L1Offset+int64(s.L1Entries)*8 > 1<<20) {
			t.Fatalf("%+v, %d bytes of %d", s, n, len(b))
		}
	})
}
