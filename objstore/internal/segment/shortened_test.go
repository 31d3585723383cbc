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
	sealed := disktest.ReadFile(t, fs, Name(7))
	if string(sealed[1<<20:]) != string(EncodeFooter(7, left())) {
		t.Error("the footer names something else")
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
		both := vfs.NewMem(0)
		must(t, both.Mkdir(Dir))
		for name, b := range map[string][]byte{Name(7): sealed, ObjectLogName(7): log} {
			f, err := both.Create(name)
			must(t, err)
			_, err = f.WriteAt(b, 0)
			must(t, err)
			must(t, f.Close())
		}
		again, err := Open(t.Context(), both, 7, disktest.Store, true)
		must(t, err)
		if objs, err := again.Objects(); err != nil || !slices.Equal(objs, want) || again.Damaged() {
			t.Errorf("log damaged %v: %+v, %v, damage %v", damaged, objs, err, again.Damage())
		}
	}
}
