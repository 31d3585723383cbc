package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/vfs"
)

var (
	goldenID     = ID{Store: disktest.Store, Volume: disktest.Volume, Gen: 3}
	goldenOrigin = Origin{Boot: "boot", Mount: "mount"}
)

func trust(all bool) func(bool, bool) Trust {
	return func(bool, bool) Trust { return Trust{Cache: all} }
}

// goldenJournal is the used part of a journal, with the header of an older version, and as it is in
// a file of which nothing is known.
func goldenJournal(t testing.TB) []byte {
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	j, err := Create(fs, goldenID, goldenOrigin, 1024)
	must(t, err)
	_, err = j.file.WriteAt(newHeader(goldenID, goldenOrigin), 0)
	must(t, err)
	for _, r := range []Record{
		{Type: Data, Sector: 8, Count: 16, Segment: 7, Block: 9},
		{Type: Hole, Sector: 100, Count: 1 << 30},
		{Type: Commit, Sector: 2},
		{Type: Data, Sector: 9, Count: 1, Segment: 7, Block: 11},
		{Type: Commit, Flags: flagFinal, Sector: 4},
	} {
		must(t, j.Append(&r))
	}
	j.Close()
	return disktest.ReadFile(t, fs, j.Name())[:Offset(6)]
}

func TestGolden(t *testing.T) {
	golden.Check(t, "journal", goldenJournal(t))
	h := newHeader(goldenID, goldenOrigin)
	h.setWriter(vfs.Identity{Inode: 0xe1, Generation: 0xe2, Birth: 0xe3})
	h.setClosing(0xe4)
	golden.Check(t, "journal-header", h)
}

func TestGoldenDecode(t *testing.T) {
	rp, err := Read(disktest.FS(t, goldenID.Name(), goldenJournal(t)), goldenID, goldenOrigin,
		func(boot, mount bool) Trust { return Trust{Cache: boot && mount} })
	must(t, err)
	if len(rp.Records) != 3 || !rp.Final || !rp.Trusted || rp.Whole != 5 || rp.Covered != 4 {
		t.Errorf("journal %+v", rp)
	}
}

// A journal of any bytes: no record is invented, and what Finish leaves reads the same, after a
// power cut too. Records of a valid type get good checksums, so that what lies behind these is
// tried too.
func FuzzJournal(f *testing.F) {
	j := goldenJournal(f)
	f.Add(j[headerBlock:], false, uint16(0))
	f.Add(j[headerBlock:], true, uint16(40))
	f.Fuzz(func(t *testing.T, b []byte, trusted bool, damage uint16) {
		if len(b) > 1<<16 {
			return
		}
		h := newHeader(goldenID, goldenOrigin)
		data := append(bytes.Clone(h), make([]byte, headerBlock-len(h))...)
		data = append(data, b...)
		for i := 0; Offset(i+1) <= int64(len(data)); i++ {
			if b := data[Offset(i):Offset(i+1)]; Type(b[4]) >= Data && Type(b[4]) <= Commit {
				r := Record{
					Type: Type(b[4]), Flags: b[5], Sector: le.Uint64(b[8:]), Count: le.Uint64(b[16:]),
					Segment: le.Uint32(b[24:]), Block: le.Uint32(b[28:]),
				}
				r.encode(b, h.seed()+uint32(i))
			}
		}
		if i := int(damage); i < len(data) && i > 0 {
			data[i] ^= 1
		}
		fs := disktest.FS(t, goldenID.Name(), data)
		rp, err := Read(fs, goldenID, goldenOrigin, trust(trusted))
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if len(rp.Records) > rp.Whole || rp.Covered > rp.Whole || !trusted && len(rp.Records) > rp.Covered {
			t.Fatalf("%d records, %d whole, %d covered", len(rp.Records), rp.Whole, rp.Covered)
		}
		if rp.Whole == 0 {
			return
		}
		_, err = rp.Finish(fs)
		must(t, err)
		cut := fs.PowerCut(rand.New(rand.NewPCG(uint64(len(b)), 0)))
		again, err := Read(cut, goldenID, Origin{Boot: "boot2", Mount: "mount2"}, trust(false))
		if err != nil {
			t.Fatalf("read again: %v", err)
		}
		if len(again.Records) != len(rp.Records) || !again.Final {
			t.Fatalf("%d records, then %d, final %v", len(rp.Records), len(again.Records), again.Final)
		}
	})
}

// The name of a file of bytes of any kind is parsed only if it is the one that Name writes.
func FuzzName(f *testing.F) {
	f.Add(path.Base(goldenID.Name()))
	f.Add(path.Base(goldenID.Name()) + DraftSuffix)
	f.Add("{" + path.Base(goldenID.Name()))
	f.Add("00112233445566778899aabbccddeeff") // a UUID, by another spelling
	f.Fuzz(func(t *testing.T, name string) {
		volume, gen, draft, ok := ParseName(name)
		if !ok {
			return
		}
		again := path.Base(Name(volume, gen))
		if draft {
			again += DraftSuffix
		}
		if again != name {
			t.Fatalf("%q is taken for %q", name, again)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
