package stripe

import (
	"bytes"
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

// golden is the set of the golden superblock, and the place of its leg.
var golden = set{
	id: uuid.MustParse("6f1d2c3b-4a59-4687-9786-a5b4c3d2e1f0"), legs: 3, chunk: 64 << 10, leg: 5 << 20, block: 4096,
}

const goldenIndex = 2

func encoded(s set, index int) []byte {
	p := make([]byte, superblockSize)
	s.encode(p, index)
	return p
}

// The bytes of a superblock do not change: sets that exist must be found again.
func TestGoldenSuperblock(t *testing.T) {
	path := filepath.Join("testdata", "superblock.hex")
	p := encoded(golden, goldenIndex)
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
		t.Errorf("the superblock is\n%s", hex.Dump(p[:128]))
	}
	s, index, err := decode(p)
	if s != golden || index != goldenIndex || err != nil {
		t.Errorf("decoded as %+v, leg %d, %v", s, index, err)
	}
}

// Each byte of a superblock counts: one that has changed makes it no superblock, or a damaged one.
func TestFlippedSuperblock(t *testing.T) {
	p := encoded(golden, goldenIndex)
	for i := range p {
		p[i] ^= 0x40
		if _, _, err := decode(p); !errors.Is(err, errNone) && !errors.Is(err, superblock.ErrDamaged) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		p[i] ^= 0x40
	}
}

// A superblock that is whole, and that this version would not write, is refused.
func TestRefusedSuperblock(t *testing.T) {
	for _, c := range []struct {
		says   string
		change func(p []byte)
	}{
		{"version 2, this varve knows 1", func(p []byte) { p[superblock.VersionAt] = 2 }},
		{"a stripe of 1 legs", func(p []byte) { p[superblock.LegsAt] = 1 }},
		{"leg 3 of 3", func(p []byte) { p[superblock.IndexAt] = 3 }},
		{"chunk size", func(p []byte) { p[chunkAt]++ }},
		{"chunk size", func(p []byte) { p[chunkAt+7] = 0xff }},
		{"data from", func(p []byte) { p[dataOffsetAt]++ }},
		{"legs of", func(p []byte) { p[legBytesAt] = 1 }},
		{"legs of", func(p []byte) { p[legBytesAt+7] = 0x80 }},
		{"block size", func(p []byte) { p[blockAt] = 1 }},
		{"leaves zero", func(p []byte) { p[usedBytes] = 1 }},
		{"leaves zero", func(p []byte) { p[superblockSize-1] = 1 }},
	} {
		p := encoded(golden, goldenIndex)
		c.change(p)
		seal(p)
		_, _, err := decode(p)
		if err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, superblock.ErrDamaged) && !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("%v, want one that says %q", err, c.says)
		}
	}
}

// seal makes the checksum of a superblock right.
func seal(p []byte) {
	superblock.Seal(p)
}

func FuzzSuperblock(f *testing.F) {
	f.Add(encoded(golden, goldenIndex), false)
	f.Add(make([]byte, superblockSize), true)
	f.Fuzz(func(t *testing.T, p []byte, sealed bool) {
		p = append(p, make([]byte, superblockSize)...)[:superblockSize]
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
		if index < 0 || index >= s.legs || s.size() <= 0 {
			t.Fatalf("leg %d of %+v", index, s)
		}
		if !bytes.Equal(encoded(s, index), p) {
			t.Fatalf("%+v, leg %d, is encoded as other bytes", s, index)
		}
	})
}
