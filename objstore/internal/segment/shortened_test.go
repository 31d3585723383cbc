package segment

import (
	"slices"
	"testing"

	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

// shortened returns a file system with segment 7, sealed with the golden objects, of which the second
// was then taken out, and not punched yet.
func shortened(t testing.TB) (vfs.FS, *File) {
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	g, err := Create(fs, 7, 1<<20, disktest.Store)
	must(t, err)
	must(t, g.Add(fs, disktest.Store, goldenObjects()))
	must(t, g.Seal(fs, disktest.Store))
	live := func(h *merkle.Hash) bool { return *h != goldenObjects()[1].Hash }
	s, err := new(Surveyor).Survey(g, live, HoleLimits{Shortest: 4096})
	must(t, err)
	if len(s.Dead) != 1 || len(s.Live) != 2 || s.AllDead() || !slices.Equal(s.Holes, []Span{{5 * 4096, 6 * 4096}}) {
		t.Fatalf("found %+v", s)
	}
	must(t, g.Shrink(fs, disktest.Store, s, live, HoleLimits{Shortest: 4096}))
	return fs, g
}

// left are the golden objects without the second.
func left() []Object { return slices.Delete(goldenObjects(), 1, 2) }

// A shortened object log is as long as the one before, counts alone when the segment is opened, and
// ends in a footer that names what is left.
func TestGoldenShortened(t *testing.T) {
	before, _ := goldenFiles(t)
	fs, g := shortened(t)
	log := disktest.ReadFile(t, fs, ObjectLogName(7))
	golden.Check(t, "object-log-shortened", log)
	if len(log) < len(before) {
		t.Errorf("the log has %d bytes, the one before had %d", len(log), len(before))
	}
	must(t, g.Close())
	again, err := Open(t.Context(), fs, 7, disktest.Store, true)
	must(t, err)
	if objs, err := again.Objects(); err != nil || !slices.Equal(objs, left()) || !again.Shortened() || again.Damaged() {
		t.Errorf("opened with %+v, shortened %v, damage %v, %v", objs, again.Shortened(), again.Damage(), err)
	}
	must(t, again.Seal(fs, disktest.Store))
	footer := disktest.ReadFile(t, fs, Name(7))[1<<20:]
	golden.Check(t, "footer-shortened", footer)
	all, err := decodeFooter(footer, 7)
	must(t, err)
	if objs, err := DecodeObjects(all); err != nil || !slices.Equal(objs, left()) {
		t.Errorf("the footer names %+v, %v", objs, err)
	}
}

// Beside a footer of before, the shortened log counts, and where it can't be read, the footer does:
// nothing was punched as long as there is one.
func TestShortenedBesideFooter(t *testing.T) {
	_, sealed := goldenFiles(t)
	for _, damaged := range []bool{false, true} {
		fs, g := shortened(t)
		must(t, g.Close())
		log := disktest.ReadFile(t, fs, ObjectLogName(7))
		want := left()
		if damaged {
			log[len(log)/2] ^= 1
			want = goldenObjects()
		}
		again := openPair(t, sealed, log)
		if objs, err := again.Objects(); err != nil || !slices.Equal(objs, want) || again.Damaged() {
			t.Errorf("log damaged %v: %+v, %v, damage %v", damaged, objs, err, again.Damage())
		}
	}
}

// openPair opens segment 7 with these files.
func openPair(t *testing.T, segment, log []byte) *File {
	t.Helper()
	fs := vfs.NewMem(0)
	must(t, fs.Mkdir(Dir))
	for name, b := range map[string][]byte{Name(7): segment, ObjectLogName(7): log} {
		f, err := fs.Create(name)
		must(t, err)
		_, err = f.WriteAt(b, 0)
		must(t, err)
		must(t, f.Close())
	}
	g, err := Open(t.Context(), fs, 7, disktest.Store, true)
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	return g
}

// Files of a segment that were copied at different times: a footer of a shortened list counts beside
// every object log that is older or damaged, as what the log names beyond it may have been punched.
// A log that is as old, or newer, counts.
func TestFooterBesideOlderLog(t *testing.T) {
	var logs, segments [3][]byte // by the number of shortenings
	var lists [3][]Object
	logs[0], segments[0] = goldenFiles(t)
	fs, g := shortened(t)
	lists[0], lists[1], lists[2] = goldenObjects(), left(), left()[:1]
	logs[1] = disktest.ReadFile(t, fs, ObjectLogName(7))
	must(t, g.Seal(fs, disktest.Store))
	segments[1] = disktest.ReadFile(t, fs, Name(7))
	live := func(h *merkle.Hash) bool { return *h == lists[2][0].Hash }
	s, err := new(Surveyor).Survey(g, live, HoleLimits{Shortest: 4096})
	must(t, err)
	must(t, g.Shrink(fs, disktest.Store, s, live, HoleLimits{Shortest: 4096}))
	logs[2] = disktest.ReadFile(t, fs, ObjectLogName(7))
	must(t, g.Seal(fs, disktest.Store))
	segments[2] = disktest.ReadFile(t, fs, Name(7))
	must(t, g.Close())

	for l := range logs {
		for f := range segments {
			g := openPair(t, segments[f], logs[l])
			want, sealed := lists[max(l, f)], f > l
			if objs, err := g.Objects(); err != nil || !slices.Equal(objs, want) || g.Sealed() != sealed || g.Outlived() != sealed || g.Damaged() {
				t.Errorf("log of %d and footer of %d shortenings: %+v, %v, sealed %v, damage %v", l, f, objs, err, g.Sealed(), g.Damage())
			}
			if f == 0 {
				continue
			}
			damaged := slices.Clone(logs[l])
			damaged[len(damaged)/2] ^= 1
			g = openPair(t, segments[f], damaged)
			if objs, err := g.Objects(); err != nil || !slices.Equal(objs, lists[f]) || !g.Sealed() || g.Repaired() == nil || g.Damaged() {
				t.Errorf("damaged log of %d and footer of %d shortenings: %+v, %v, damage %v", l, f, objs, err, g.Damage())
			}
		}
	}
}
