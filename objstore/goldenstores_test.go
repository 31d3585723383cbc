package objstore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
)

// goldenStore is a store as the varve of a commit has left it, and what that did not have yet.
type goldenStore struct {
	commit                                   string
	noVerify, noMaximum, noScratch, noResize bool
	killedCollection                         bool // see killCollection
}

// goldenStores are stores as earlier versions have left them; testdata/stores/make has made them.
var goldenStores = map[string]goldenStore{
	"01-engine":          {commit: "3d99ee8", noVerify: true, noScratch: true, noResize: true, noMaximum: true},
	"02-two-copies":      {commit: "e1550d2", noScratch: true, noResize: true},
	"03-identities":      {commit: "5779918", noResize: true},
	"04-before-features": {commit: "cfc6367", noResize: true},
	"05-resize":          {commit: "a3c91bb"},
	"06-collected":       {commit: "9b7ed4f", killedCollection: true},
}

// unpack returns the directory of a golden store, which is a copy to write to.
func unpack(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "stores", name+".tar.gz"))
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "store")
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		must(t, err)
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			must(t, os.MkdirAll(path, 0o700))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		b, err := io.ReadAll(r) // holes are zeroes
		must(t, err)
		must(t, os.WriteFile(path, b, 0o600))
	}
}

// goldenImages are the images of a golden store, by NAME or NAME@SNAPSHOT.
func goldenImages(noResize bool) map[string][]byte {
	a := make([]byte, 2<<20+1536)
	copy(a, madeBytes(1, 0, 256<<10))
	copy(a[2<<20:], madeBytes(2, 2<<20, 1536))
	clear(a[100<<10 : 150<<10])
	one := bytes.Clone(a)
	copy(a[1<<20:], madeBytes(3, 1<<20, 40<<10))
	copy(a[128<<10+512:], madeBytes(4, 128<<10+512, 5<<10))
	two := bytes.Clone(a)
	copy(a, madeBytes(5, 0, 9<<10))
	clear(a[1<<20+8<<10 : 1<<20+12<<10])
	b := make([]byte, 1<<20)
	copy(b[64<<10:], madeBytes(1, 64<<10, 96<<10))
	never := make([]byte, 3<<20)
	if noResize {
		never = never[:1<<20]
	}
	return map[string][]byte{
		"a": a, "a@one": one, "a@two": two, "b": b, "b@same": b, "never-written": never, "never-written@zeroes": make([]byte, 1<<20),
	}
}

// lookAtImages compares a store with the images that it should have.
func lookAtImages(t *testing.T, s *Store, what string, want map[string][]byte) {
	t.Helper()
	snaps, err := s.Snapshots("")
	must(t, err)
	if got := len(s.Volumes()) + len(snaps); got != len(want) {
		t.Errorf("%s: %d images, want %d", what, got, len(want))
	}
	for name, content := range want {
		volume, snap, isSnap := strings.Cut(name, "@")
		var im interface {
			Image
			Close() error
		}
		if isSnap {
			im, err = s.OpenSnapshot(volume, snap)
		} else {
			im, err = s.OpenVolume(volume, "test")
		}
		must(t, err)
		got := make([]byte, im.Size())
		_, err := im.ReadAt(got, 0)
		must(t, err)
		if err := im.Close(); !errors.Is(err, ErrReadOnly) { // of a store that is only looked at
			must(t, err)
		}
		if !bytes.Equal(got, content) {
			t.Errorf("%s: %s has %d bytes, want %d, or other ones", what, name, len(got), len(content))
		}
	}
	report, err := s.Check(t.Context(), nil)
	must(t, err)
	for _, d := range report.Damage {
		t.Errorf("%s: damage: %+v", what, d)
	}
}

// A store of any version that has landed, and one of today, is opened, read, checked, written, settled
// and opened again; first by those who only look. Opening notes no feature: until one is used, the
// version that made the store could open it again.
func TestGoldenStores(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("testdata", "stores", "*.tar.gz"))
	must(t, err)
	if len(names) != len(goldenStores) {
		t.Errorf("%d stores, want %d", len(names), len(goldenStores))
	}
	for name, g := range goldenStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			useGolden(t, unpack(t, name), g)
		})
	}
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("today, collection killed %v", killed), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if makeStore(t, dir); killed {
				killCollection(t, dir)
			}
			useGolden(t, dir, goldenStore{killedCollection: killed})
		})
	}
}

// useGolden does everything to a store that its users do.
func useGolden(t *testing.T, dir string, g goldenStore) {
	t.Helper()
	ctx := t.Context()
	want := goldenImages(g.noResize)
	if g.killedCollection {
		want["half"] = madeBytes(8, 0, 512<<10)
		clear(want["half"][:256<<10])
	}
	opts := Options{SettleDelay: -1}
	open := func(o Options) *Store {
		t.Helper()
		s, err := Open(ctx, dir, o)
		must(t, err)
		return s
	}
	before := filesOf(t, dir)
	s := open(Options{LookOnly: true})
	lookAtImages(t, s, "looked at", want)
	if err := s.Close(); !errors.Is(err, ErrReadOnly) { // volumes were open, which flush
		must(t, err)
	}
	if after := filesOf(t, dir); !slices.Equal(after, before) {
		t.Error("looking has changed a file")
	}

	s = open(opts)
	lookAtImages(t, s, "opened", want)
	for _, g := range s.segments.All() {
		if g.Shortened() {
			t.Errorf("segment %08x was not sealed again", g.ID)
		}
	}
	b, err := s.VolumeInfo("b")
	must(t, err)
	st, err := s.Stat()
	must(t, err)
	if b.Verify == g.noVerify || b.BlockSize != 4096 || (st.MaxSize != 0) == g.noMaximum || (len(s.ScratchVolumes()) == 0) != g.noScratch {
		t.Errorf("volume b %+v, maximum %d, scratch volumes %+v", b, st.MaxSize, s.ScratchVolumes())
	}
	features, copied := onDisk(t, s.fs)
	if (features == refs.Features{}) != g.noResize || copied != features {
		t.Errorf("opened, the store uses %v", features.Names())
	}
	v, err := s.OpenVolume("a", "test")
	must(t, err)
	for off := range int64(3) {
		p := madeBytes(6, off*(400<<10)+512, 20<<10)
		_, err := v.WriteAt(p, off*(400<<10)+512)
		must(t, err)
		copy(want["a"][off*(400<<10)+512:], p)
	}
	must(t, v.Close())
	lookAtImages(t, s, "written", want)
	must(t, s.Settle(ctx))
	lookAtImages(t, s, "settled", want)
	_, err = s.CreateSnapshot(ctx, "a", "three")
	must(t, err)
	want["a@three"] = bytes.Clone(want["a"])
	must(t, s.DeleteSnapshot(ctx, "a", "one"))
	delete(want, "a@one")
	_, err = s.ResizeVolume(ctx, "b", 3<<20, ResizeOptions{})
	must(t, err)
	want["b"] = append(bytes.Clone(want["b"]), make([]byte, 2<<20)...)
	must(t, s.Close())

	s = open(opts)
	lookAtImages(t, s, "opened again", want)
	must(t, s.Close())
}

// filesOf lists the files of a directory with their bytes' checksums.
func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out = append(out, path+" "+fmt.Sprintf("%08x", disk.Checksum(b)))
		return err
	}))
	return out
}
