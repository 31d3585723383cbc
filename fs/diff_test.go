package fs

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
	"varve/objstore"
)

// A diff is the text of JSON lines that the engine's changes are, begins again at offset 0, and is
// read as far as somebody wants.
func TestDiffFile(t *testing.T) {
	need.These(t, need.FUSE, need.Root)
	st := realStore(t, 64*mib)
	v, err := st.OpenVolume("vol", "test")
	must(t, err)
	s := mountSource(t, Store(st), Options{})
	_, err = st.CreateSnapshot(t.Context(), "vol", "empty")
	must(t, err)
	chunk := make([]byte, 16<<10)
	for i := range 3000 { // every other chunk: the text is longer than what is buffered
		chunk[0], chunk[1] = byte(i), byte(i>>8)+1
		if _, err := v.WriteAt(chunk, int64(2*i)*int64(len(chunk))%(64*mib)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(s.Dir(), "diff", "vol@empty..vol")
	text, err := os.ReadFile(path)
	must(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var images objstore.DiffImages
	must(t, json.Unmarshal([]byte(lines[0]), &images))
	var total objstore.DiffTotal
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &total))
	if images.From.Snapshot != "empty" || images.To.Size != 64*mib || total.Ranges != int64(len(lines)-2) || total.Bytes != 2048*16<<10 {
		t.Errorf("%d lines, of images %+v, with the sum %+v", len(lines), images, total)
	}
	if images.To.Root == "" {
		t.Error("the volume has no root")
	}

	f, err := os.Open(path)
	must(t, err)
	line, err := bufio.NewReaderSize(f, 4096).ReadString('\n')
	if err != nil || line != lines[0]+"\n" {
		t.Errorf("the first line: %q, %v", line, err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 1); !errors.Is(err, unix.ESPIPE) {
		t.Errorf("a read of what has passed: %v, want ESPIPE", err)
	}
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	if again, err := io.ReadAll(f); err != nil || string(again) != string(text) {
		t.Errorf("a second reading has %d bytes, %v; want %d", len(again), err, len(text))
	}
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	_, err = f.Read(make([]byte, 100))
	must(t, err)
	must(t, f.Close()) // in the middle: nothing goes on
	must(t, v.Close())
}

// Names of images have dots, and everything that is no pair of images is not there.
func TestDiffNames(t *testing.T) {
	need.These(t, need.FUSE, need.Root)
	src := newFakeSource()
	longest := strings.Repeat("x", objstore.MaxName)
	for _, name := range []string{"a", "a..b", "b", longest} {
		src.create(name, mib)
		src.snapshot(name, "s..t", true)
	}
	src.snapshot(longest, longest, true)
	s := mountSource(t, src, Options{})
	for name, want := range map[string]string{
		"a..b": "a b", "a..b..b": "a..b b", "b..a..b": "b a..b", "a..b@s..t..a..b": "a..b@s..t a..b", "b@s..t..a@s..t": "b@s..t a@s..t",
		longest + "@" + longest + ".." + longest + "@" + longest: longest + "@" + longest + " " + longest + "@" + longest,
	} {
		b, err := os.ReadFile(filepath.Join(s.Dir(), "diff", name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var i objstore.DiffImages
		must(t, json.NewDecoder(strings.NewReader(string(b))).Decode(&i))
		if got := i.From.String() + " " + i.To.String(); got != want {
			t.Errorf("%s compares %s", name, got)
		}
	}
	for _, name := range []string{"a", "..a", "a..", "a@..b", "a..b@", "a..c", "c..a", "a@c..b", "...", "a.b", "a/..b"} {
		if _, err := os.Stat(s.Dir() + "/diff/" + name); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("diff/%s: %v", name, err)
		}
	}
	_, err := os.Stat(filepath.Join(s.Dir(), "diff", strings.Repeat("x", maxDiffName+1)))
	wantErrno(t, "a name that is too long", err, unix.ENAMETOOLONG)
	if entries, err := os.ReadDir(filepath.Join(s.Dir(), "diff")); err != nil || len(entries) != 0 {
		t.Errorf("diff lists %v, %v", entries, err)
	}
	if _, err := os.OpenFile(filepath.Join(s.Dir(), "diff", "a..b"), os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("open for writing: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
