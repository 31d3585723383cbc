package zoned

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/superblock"
	"varve/blockdev/target/zoned/zone"
)

var update = flag.Bool("update", false, "write the golden files anew")

var goldenSuper = super{
	id: uuid.MustParse("6f1d2c3b-4a59-4687-9786-a5b4c3d2e1f0"), block: 4096, openings: 7,
	geo: zone.Geometry{Size: 40 << 28, ZoneSize: 1 << 28, Conventional: 2, MaxOpen: 8, MaxActive: 12},
}

// goldenWords are states of the zones of goldenSuper.
func goldenWords() []zone.Word {
	words := fresh(&goldenSuper.geo)
	words[2] = 0x4_0008_00000010 // closed, 8 KiB, the last 4 KiB in one write
	words[39] = 0xe_0000_00000000
	return words
}

// The bytes of the formats do not change: disks that exist must be found again.
func TestGolden(t *testing.T) {
	sb, page := make([]byte, superblockSize), make([]byte, pageSize)
	goldenSuper.encode(sb)
	encodePage(page, goldenSuper.id, 0, 41, goldenWords())
	for name, p := range map[string][]byte{"superblock.hex": sb, "page.hex": page} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(hex.Dump(p)), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(p) != string(want) {
			t.Errorf("%s is\n%s", name, hex.Dump(p[:160]))
		}
	}
	if s, err := decodeSuper(sb); s != goldenSuper || err != nil {
		t.Errorf("decoded as %+v, %v", s, err)
	}
	words := make([]zone.Word, len(goldenWords()))
	if n, err := decodePage(page, goldenSuper.id, 0, words, &goldenSuper.geo); n != 41 || err != nil || !slices.Equal(words, goldenWords()) {
		t.Errorf("decoded as page %d, %v", n, err)
	}
}

// Each byte counts: one that has changed makes it no superblock and no page, or a damaged one.
func TestFlippedBytes(t *testing.T) {
	sb, page := make([]byte, superblockSize), make([]byte, pageSize)
	goldenSuper.encode(sb)
	encodePage(page, goldenSuper.id, 0, 41, goldenWords())
	words := make([]zone.Word, len(goldenWords()))
	for i := range pageSize {
		sb[i] ^= 0x10
		page[i] ^= 0x10
		if _, err := decodeSuper(sb); !errors.Is(err, superblock.ErrDamaged) && !errors.Is(err, errNone) {
			t.Errorf("byte %d of the superblock is another: %v", i, err)
		}
		if _, err := decodePage(page, goldenSuper.id, 0, words, &goldenSuper.geo); !errors.Is(err, superblock.ErrDamaged) {
			t.Errorf("byte %d of the page is another: %v", i, err)
		}
		sb[i] ^= 0x10
		page[i] ^= 0x10
	}
}

// What a decoder takes is what the encoder makes, and a disk that can be.
func FuzzSuperblock(f *testing.F) {
	p := make([]byte, superblockSize)
	goldenSuper.encode(p)
	f.Add(p)
	f.Add(make([]byte, superblockSize))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) != superblockSize {
			return
		}
		superblock.Seal(p) // so that the fuzzer gets behind the checksum
		was := slices.Clone(p)
		s, err := decodeSuper(p)
		if err != nil {
			return
		}
		if err := s.geo.Validate(); err != nil {
			t.Fatal(err)
		}
		if s.encode(p); !bytes.Equal(p, was) {
			t.Errorf("%+v is encoded otherwise", s)
		}
	})
}

func FuzzPage(f *testing.F) {
	p := make([]byte, pageSize)
	encodePage(p, goldenSuper.id, 0, 41, goldenWords())
	f.Add(p)
	f.Add(make([]byte, pageSize))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) != pageSize {
			return
		}
		superblock.Seal(p)
		was := slices.Clone(p)
		words := make([]zone.Word, goldenSuper.geo.Zones())
		n, err := decodePage(p, goldenSuper.id, 0, words, &goldenSuper.geo)
		if err != nil {
			return
		}
		for i, w := range words {
			if err := goldenSuper.geo.Check(i, w); err != nil {
				t.Fatal(err)
			}
		}
		if encodePage(p, goldenSuper.id, 0, n, words); !bytes.Equal(p, was) {
			t.Error("the page is encoded otherwise")
		}
	})
}

// disk opens a file of pointers for many zones.
func manyZones(t *testing.T) (string, Options, int) {
	t.Helper()
	const zones = 2*zonesPerPage + 5
	path := newFile(t, dataOffset(zones)+zones*zone.MinSize)
	o := options(path)
	o.Format, o.Geometry = true, zone.Geometry{ZoneSize: zone.MinSize, Conventional: 1}
	d := openDisk(t, path, o)
	for _, z := range []int64{1, zonesPerPage, 2 * zonesPerPage, zones - 1} {
		off := z * zone.MinSize
		if err := d.zones.Write(off, block); err != nil {
			t.Fatal(err)
		}
		d.zones.Done(off, block)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	o.Format = false
	return path, o, zones
}

func overwrite(t *testing.T, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(p, off)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func wordsOf(t *testing.T, path string, o Options) ([]zone.Word, []string) {
	t.Helper()
	o.ReadOnly = true
	d := openDisk(t, path, o)
	defer d.Close()
	words := make([]zone.Word, d.lim.Size/d.lim.Zones.Size)
	d.zones.Snapshot(words)
	return words, d.Notes()
}

// A page that is torn leaves the one before it; a page that is lost in both slots leaves zones that
// can only be read, and no other page is affected. The damage is named.
func TestDamagedPages(t *testing.T) {
	path, o, zones := manyZones(t)
	before, notes := wordsOf(t, path, o)
	if len(notes) != 0 {
		t.Fatal(notes)
	}
	f, err := backing.Open(path, backing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := readSuper(f)
	if err != nil {
		t.Fatal(err)
	}
	p := newPointers(f, &s)
	if lost, err := p.load(&s.geo); err != nil || lost != nil {
		t.Fatal(lost, err)
	}
	torn := slotOffset(1, p.next[1]) // the older slot, which the next write would have gone to
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, torn+512, bytes.Repeat([]byte{0xa5}, 512))
	if after, notes := wordsOf(t, path, o); !slices.Equal(after, before) || len(notes) != 0 {
		t.Errorf("a torn page changes the pointers, %v", notes)
	}
	overwrite(t, path, slotOffset(1, 0), make([]byte, 2*pageSize))
	after, notes := wordsOf(t, path, o)
	if len(notes) != 1 || !strings.Contains(notes[0], "zones 506 to 1011 are damaged") {
		t.Errorf("notes: %q", notes)
	}
	for i, w := range after {
		want := before[i]
		if i/zonesPerPage == 1 {
			want = s.geo.AllReadable()
		}
		if w != want {
			t.Fatalf("zone %d of %d is %#x, want %#x", i, zones, uint64(w), uint64(want))
		}
	}
}

// One damaged copy of the superblock costs nothing; with both there is no disk.
func TestDamagedSuperblock(t *testing.T) {
	path, o := formatted(t)
	overwrite(t, path, 100, []byte{1})
	if err := openDisk(t, path, o).Close(); err != nil {
		t.Error(err)
	}
	overwrite(t, path, superblockSize+100, []byte{1})
	if err := openDisk(t, path, o).Close(); err != nil { // the opening has written both
		t.Error(err)
	}
	overwrite(t, path, 100, []byte{1})
	overwrite(t, path, superblockSize+100, []byte{1})
	if _, err := Open(path, o); !errors.Is(err, superblock.ErrDamaged) {
		t.Errorf("with both damaged: %v", err)
	}
}
