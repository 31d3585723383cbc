package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"varve/objstore/internal/disktest"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// crafted returns the files of segment 7 with these objects in its footer and in its object log; nil: there is none of it.
// The header says how long the footer is if headerKnows.
func crafted(t *testing.T, footer, log []Object, headerKnows bool) *vfs.Mem {
	t.Helper()
	const capacity = 1 << 20
	h := Header{ID: 7, Store: disktest.Store, Capacity: capacity}
	var b []byte
	if footer != nil {
		if b = EncodeFooter(7, footer); headerKnows {
			h.Footer = int64(len(b))
		}
	}
	fs := disktest.FS(t, Name(7), h.Encode())
	f, err := fs.Open(Name(7))
	must(t, err)
	must(t, f.Truncate(capacity))
	_, err = f.WriteAt(b, capacity)
	must(t, err)
	must(t, f.Close())
	if log == nil {
		return fs
	}
	l, err := record.Create(fs, ObjectLogName(7), ObjectLogID(disktest.Store, 7))
	must(t, err)
	if len(log) > 0 {
		must(t, l.Append(EncodeObjects(log)))
	}
	must(t, l.Close())
	return fs
}

// The table at reconcile.
func TestReconcile(t *testing.T) {
	all := goldenObjects()
	none := []Object{}
	other := goldenObjects()
	other[0].Hash = hashOf(0xff)
	for _, c := range []struct {
		name        string
		footer, log []Object
		flipLog     bool // one bit of the log's first frame
		sealed      bool
		objects     int
		damaged     bool
		outlived    bool
	}{
		{name: "neither"},
		{name: "log alone", log: all, objects: 3},
		{name: "log, and a footer of less", log: all, footer: all[:1], objects: 3},
		{name: "log, and the same footer", log: all, footer: all, objects: 3},
		{name: "footer of more", log: all[:1], footer: all, sealed: true, objects: 3, outlived: true},
		{name: "footer, and an empty log", log: none, footer: all, sealed: true, objects: 3, outlived: true},
		{name: "footer alone", footer: all, sealed: true, objects: 3},
		{name: "each of its own", log: all[:2], footer: all[1:], objects: 3},
		{name: "contradiction", log: all, footer: other, objects: 2, damaged: true},
		{name: "damaged log alone", log: all, flipLog: true, damaged: true},
		{name: "damaged log, footer", log: all, flipLog: true, footer: all, sealed: true, objects: 3, outlived: true},
	} {
		for _, headerKnows := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, header knows %v", c.name, headerKnows), func(t *testing.T) {
				fs := crafted(t, c.footer, c.log, headerKnows)
				if c.flipLog {
					f, err := fs.Open(ObjectLogName(7))
					must(t, err)
					b := disktest.ReadFile(t, fs, ObjectLogName(7))
					b[record.HeaderSize+20] ^= 1
					_, err = f.WriteAt(b, 0)
					must(t, err)
					must(t, f.Close())
				}
				for _, opening := range []string{"first", "second"} {
					g, err := Open(t.Context(), fs, 7, disktest.Store, c.log != nil)
					must(t, err)
					objs, err := g.Objects()
					must(t, err)
					if g.Sealed() != c.sealed || len(objs) != c.objects || g.Damaged() != c.damaged || g.Outlived() != c.outlived {
						t.Errorf("%s opening: sealed %v, %d objects, damage %v, outlived %v; want %+v",
							opening, g.Sealed(), len(objs), g.Damage(), g.Outlived(), c)
					}
					must(t, g.Close())
				}
			})
		}
	}
}

// A header that a power cut did not leave is deduced from the rest; with nothing left the segment was never finished.
func TestOpenWithoutHeader(t *testing.T) {
	wipe := func(fs vfs.FS) {
		f, err := fs.Open(Name(7))
		must(t, err)
		_, err = f.WriteAt(make([]byte, HeaderSize), 0)
		must(t, err)
		must(t, f.Close())
	}
	fs := crafted(t, goldenObjects(), nil, true)
	wipe(fs)
	g, err := Open(t.Context(), fs, 7, disktest.Store, false)
	must(t, err)
	if !g.Sealed() || g.Damaged() || g.Repaired() == nil || g.Capacity != 1<<20 {
		t.Errorf("sealed %v, damage %v, repaired %v, capacity %d", g.Sealed(), g.Damage(), g.Repaired(), g.Capacity)
	}
	must(t, g.Close())
	if g, err = Open(t.Context(), fs, 7, disktest.Store, false); err != nil || g.Repaired() != nil {
		t.Errorf("the header is not repaired for good: %v", err)
	}
	fs = crafted(t, nil, nil, true)
	wipe(fs)
	if _, err := Open(t.Context(), fs, 7, disktest.Store, false); !errors.Is(err, ErrUnfinished) {
		t.Errorf("a segment of zeroes: %v", err)
	}
}

// What is added is listed after the next opening, sealed or not; a sealed segment has no object log.
func TestAddAndSeal(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		fs := vfs.NewMem(0)
		must(t, fs.Mkdir(Dir))
		must(t, fs.SyncDir("."))
		g, err := Create(fs, 7, 1<<20, disktest.Store)
		must(t, err)
		must(t, fs.SyncDir(Dir))
		if !g.Blank() {
			t.Error("a new segment is not blank")
		}
		for _, o := range goldenObjects() {
			must(t, g.Add(fs, disktest.Store, []Object{o}))
		}
		if sealed {
			must(t, g.Seal(fs, disktest.Store))
		}
		if chunks, others := g.Stored(); g.Blank() || g.Sealed() != sealed || g.HasObjectLog() == sealed || chunks != 16384 || others != 128 {
			t.Errorf("sealed %v, blank %v, object log %v, %d and %d bytes", g.Sealed(), g.Blank(), g.HasObjectLog(), chunks, others)
		}
		if o, ok, _, _ := g.Listed(5); ok == sealed || ok && o != goldenObjects()[1] {
			t.Errorf("block 5 of a segment that is sealed %v: %+v, %v", sealed, o, ok)
		}
		must(t, g.Check(t.Context(), disktest.Store, func(string) {}, func(err error) { t.Error(err) }))
		cut := fs.PowerCut(rand.New(rand.NewPCG(1, 1)))
		again, err := Open(t.Context(), cut, 7, disktest.Store, !sealed)
		must(t, err)
		if objs, err := again.Objects(); err != nil || len(objs) != 3 || again.Sealed() != sealed || again.Damaged() || again.Repaired() != nil {
			t.Errorf("after a power cut: %d objects, %v, sealed %v, damage %v, repaired %v",
				len(objs), err, again.Sealed(), again.Damage(), again.Repaired())
		}
	}
}

func TestTable(t *testing.T) {
	var table Table
	if table.Get(1) != nil || len(table.All()) != 0 {
		t.Error("an empty table has a segment")
	}
	for _, id := range []uint32{5000, 3, 1} {
		table.Add(&File{ID: id})
	}
	table.Remove(3)
	if all := table.All(); len(all) != 2 || all[0].ID != 1 || all[1] != table.Get(5000) || table.Get(3) != nil || table.Get(1<<31) != nil {
		t.Errorf("segments %v", all)
	}
}

// The cache keeps to its bound, and has what was asked for last.
func TestFooterCache(t *testing.T) {
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	c := NewFooterCache(200 * ObjectSize)
	objs := make([]Object, 80)
	for i := range objs {
		objs[i] = Object{Hash: hashOf(1), Block: uint32(i + 1), Length: 32, Kind: merkle.NodeKind(1)}
	}
	var files []*File
	for id := range uint32(4) {
		g, err := Create(fs, id+1, 1<<20, disktest.Store)
		must(t, err)
		must(t, g.Add(fs, disktest.Store, objs))
		must(t, g.Seal(fs, disktest.Store))
		files = append(files, g)
		all, err := c.Get(g)
		must(t, err)
		if all.Len() != len(objs) || c.bytes > c.limit {
			t.Errorf("%d objects, %d bytes in a cache of %d", all.Len(), c.bytes, c.limit)
		}
	}
	for i, g := range files {
		must(t, g.Close())
		if _, err := c.Get(g); (err == nil) != (i >= 2) {
			t.Errorf("footer %d of a closed segment: %v", i, err)
		}
	}
}
