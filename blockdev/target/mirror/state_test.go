package mirror

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"varve/blockdev/target/superblock"
	"varve/uring/queue"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is the state of the golden superblock, goldenIndex the place of its leg.
var golden = state{
	id: uuid.MustParse("0f1e2d3c-4b5a-4968-8776-a5b4c3d2e1f0"), legs: 3, size: 5<<20 + 4096, region: 64 << 10, block: 4096, clean: true,
	events: 77, parts: [MaxLegs]part{partInSync, partOut, partResyncing}, left: [MaxLegs]uint64{0, 41, 76}, settled: 75,
}

const goldenIndex = 2

func encoded(s *state, index int) []byte {
	p := make([]byte, stateSize)
	s.encode(p, index)
	return p
}

// goldenBits has the first bit, the last one of a word, and the last one.
func goldenBits() *bitmap {
	b := newBitmap(pageRegions + 10)
	b.set(0)
	b.set(63)
	b.set(pageRegions - 1)
	b.set(pageRegions + 9)
	return b
}

// The bytes on disk do not change: sets that exist must be found again.
func TestGolden(t *testing.T) {
	page := func(i int) []byte {
		p := make([]byte, pageSize)
		goldenBits().encodePage(p, i)
		return p
	}
	for name, p := range map[string][]byte{"state": encoded(&golden, goldenIndex), "bitmap0": page(0), "bitmap1": page(1)} {
		path := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(hex.Dump(p)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(p) != string(want) {
			t.Errorf("%s is\n%s", name, hex.Dump(p[:192]))
		}
	}
	s, index, err := decode(encoded(&golden, goldenIndex))
	if s != golden || index != goldenIndex || err != nil {
		t.Errorf("decoded as %+v, leg %d, %v", s, index, err)
	}
	b := newBitmap(pageRegions + 10)
	if !b.decodePage(page(0), 0) || !b.decodePage(page(1), 1) || b.count != 4 {
		t.Errorf("the bitmap is decoded with %d bits", b.count)
	}
	for i := goldenBits().next(0); i >= 0; i = goldenBits().next(i + 1) {
		if !b.has(i) {
			t.Errorf("bit %d is lost", i)
		}
	}
}

// Each byte of a state counts, as does each byte of a page of the bitmap: a damaged page is all ones.
func TestFlipped(t *testing.T) {
	p := encoded(&golden, goldenIndex)
	page := make([]byte, pageSize)
	goldenBits().encodePage(page, 0)
	for i := range p {
		p[i] ^= 0x40
		if _, _, err := decode(p); !errors.Is(err, errNone) && !errors.Is(err, superblock.ErrDamaged) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		p[i] ^= 0x40
		page[i] ^= 0x40
		b := newBitmap(pageRegions + 10)
		if b.decodePage(page, 0) || b.count != pageRegions {
			t.Fatalf("byte %d of a page flipped: %d bits", i, b.count)
		}
		page[i] ^= 0x40
	}
	b := newBitmap(pageRegions + 10)
	if b.decodePage(page, 1) || b.count != 10 {
		t.Errorf("a page in another's place has %d bits, want all 10", b.count)
	}
}

// A state that is whole, and that this version would not write, is refused.
func TestRefusedState(t *testing.T) {
	for _, c := range []struct {
		says   string
		change func(p []byte)
	}{
		{"version 2, this varve knows 1", func(p []byte) { p[superblock.VersionAt] = 2 }},
		{"a mirror of 1 legs", func(p []byte) { p[superblock.LegsAt] = 1 }},
		{"leg 3 of 3", func(p []byte) { p[superblock.IndexAt] = 3 }},
		{"a mirror of", func(p []byte) { p[sizeAt]++ }},
		{"a mirror of", func(p []byte) { p[sizeAt+7] = 0xff }},
		{"region size", func(p []byte) { p[regionAt]++ }},
		{"region size", func(p []byte) { p[regionAt+7] = 0x80 }},
		{"block size", func(p []byte) { p[blockAt] = 1 }},
		{"leg 1 has part 3", func(p []byte) { p[partsAt+1] = 3 }},
		{"in sync", func(p []byte) { p[partsAt] = 0 }},
		{"leaves zero", func(p []byte) { p[cleanAt] = 2 }},
		{"leaves zero", func(p []byte) { p[partsAt+5] = 1 }},
		{"leaves zero", func(p []byte) { p[stateSize-1] = 1 }},
	} {
		p := encoded(&golden, goldenIndex)
		c.change(p)
		seal(p)
		_, _, err := decode(p)
		if err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, superblock.ErrDamaged) && !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("%v, want one that says %q", err, c.says)
		}
	}
}

// seal makes the checksum of a page right.
func seal(p []byte) {
	superblock.Seal(p)
}

func FuzzState(f *testing.F) {
	f.Add(encoded(&golden, goldenIndex), false)
	f.Add(make([]byte, stateSize), true)
	f.Fuzz(func(t *testing.T, p []byte, sealed bool) {
		p = append(p, make([]byte, stateSize)...)[:stateSize]
		if sealed {
			copy(p, kind.Magic)
			seal(p)
		}
		before := bytes.Clone(p)
		s, index, err := decode(p)
		if !bytes.Equal(p, before) {
			t.Fatal("decoding has changed the bytes")
		}
		if err != nil {
			return
		}
		if index < 0 || index >= s.legs || s.size <= 0 || s.regions() <= 0 || s.regions() > maxRegions {
			t.Fatalf("leg %d of %+v", index, s)
		}
		if !bytes.Equal(encoded(&s, index), p) {
			t.Fatalf("%+v, leg %d, is encoded as other bytes", s, index)
		}
	})
}

func FuzzBitmapPage(f *testing.F) {
	p := make([]byte, pageSize)
	goldenBits().encodePage(p, 0)
	f.Add(p, uint8(0), uint16(pageRegions), false)
	f.Fuzz(func(t *testing.T, p []byte, page uint8, n uint16, sealed bool) {
		p = append(p, make([]byte, pageSize)...)[:pageSize]
		if sealed {
			copy(p, pageMagic)
			binary.LittleEndian.PutUint32(p[numberAt:], uint32(page))
			seal(p)
		}
		b := newBitmap(1 + int(n))
		whole := b.decodePage(p, int(page))
		if sealed && !whole {
			t.Fatal("a page that is whole is damaged")
		}
		count := 0
		for i := b.next(0); i >= 0; i = b.next(i + 1) {
			count++
		}
		if count != b.count || b.count > b.n {
			t.Fatalf("%d bits, counted as %d, of %d", count, b.count, b.n)
		}
	})
}

// Ranges that overlap are had one after the other, in the order in which they came.
func TestRanges(t *testing.T) {
	var r ranges
	var got []int64
	granted := func(s *span) { got = append(got, s.off) }
	a, b, c, d := span{off: 0, end: 10}, span{off: 5, end: 15}, span{off: 12, end: 20}, span{off: 30, end: 40}
	for s, want := range map[*span]bool{&a: true} {
		if r.enter(s) != want {
			t.Errorf("%+v", s)
		}
	}
	if r.enter(&b) || r.enter(&c) || !r.enter(&d) {
		t.Error("one that overlaps an earlier one is had, or one that does not is not")
	}
	r.leave(&d, granted)
	if len(got) != 0 {
		t.Errorf("granted %v", got)
	}
	r.leave(&b, granted) // given up: c is free of it
	r.leave(&a, granted)
	if len(got) != 1 || got[0] != 12 || !c.has {
		t.Errorf("granted %v, want 12", got)
	}
	r.leave(&c, granted)
	if len(r.list) != 0 || r.waiting != 0 || r.covers(0, 100) {
		t.Errorf("%d are left, %d wait", len(r.list), r.waiting)
	}
}
