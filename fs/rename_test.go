package fs

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// Files and directories that are open go on when their volume, or snapshot, is renamed; a volume
// that gets the old name is another one.
func TestRenamedUnderOpenFiles(t *testing.T) {
	src := newFakeSource()
	v := src.create("a", mib)
	s := mountSource(t, src, Options{})
	at := func(path string) string { return filepath.Join(s.Dir(), path) }
	live, err := os.OpenFile(at("volumes/a/live"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	old := noise(8192)
	if _, err := live.WriteAt(old, 0); err != nil {
		t.Fatal(err)
	}
	src.snapshot("a", "s", true)
	img, err := os.Open(at("snapshots/a/s/disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	dir, err := os.Open(at("volumes/a"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	before, err := live.Stat()
	if err != nil {
		t.Fatal(err)
	}

	src.rename("a", "b")
	src.renameSnapshot("b", "s", "z")
	other := src.create("a", 2*mib)

	now := noise(4096)
	if _, err := live.WriteAt(now, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, now) {
		t.Errorf("a write to the open live file did not reach the renamed volume: %v", err)
	}
	if st, err := live.Stat(); err != nil || st.Size() != mib || !os.SameFile(st, before) {
		t.Errorf("the open live file is %+v, %v", st, err)
	}
	if st, err := img.Stat(); err != nil || st.Size() != mib {
		t.Errorf("the open image is %+v, %v", st, err)
	}
	if _, err := img.ReadAt(got, 4096); err != nil || !bytes.Equal(got, old[4096:]) {
		t.Errorf("the open image reads other content: %v", err)
	}
	if list, err := dir.Readdirnames(-1); err != nil || len(list) != 2 {
		t.Errorf("the open directory lists %q, %v", list, err)
	}
	wantNames(t, at("volumes"), "a", "b")
	wantNames(t, at("snapshots/a"))
	wantNames(t, at("snapshots/b"), "z")
	if st, err := os.Stat(at("volumes/a/live")); err != nil || st.Size() != 2*mib || os.SameFile(st, before) {
		t.Errorf("the old name is %+v, %v; want the new volume", st, err)
	}
	if st, err := os.Stat(at("volumes/b/live")); err != nil || !os.SameFile(st, before) {
		t.Errorf("the new name is %+v, %v; want the file that is open", st, err)
	}
	_, err = os.Stat(at("snapshots/b/s"))
	wantErrno(t, "the snapshot's old name", err, unix.ENOENT)
	text, err := os.ReadFile(at("volumes/b/info.json"))
	var info objstore.VolumeInfo
	if err != nil || json.Unmarshal(text, &info) != nil || info.Name != "b" {
		t.Errorf("info.json is %s, %v", text, err)
	}
	if other.opens() != 0 {
		t.Error("the new volume was opened for the old one's file")
	}
}
