package fs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// names lists a directory.
func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func wantNames(t *testing.T, path string, want ...string) {
	t.Helper()
	if got := names(t, path); !slices.Equal(got, want) {
		t.Errorf("%s has %v, want %v", path, got, want)
	}
}

func TestTreeFollowsTheSource(t *testing.T) {
	src := newFakeSource()
	s := mountSource(t, src, Options{})
	at := func(path string) string { return filepath.Join(s.Dir(), path) }
	gone := func(path string) {
		t.Helper()
		_, err := os.Stat(at(path))
		wantErrno(t, path, err, unix.ENOENT)
	}
	wantNames(t, s.Dir(), "by-id", "diff", "history", "snapshots", "volumes")
	wantNames(t, at("volumes"))
	gone("volumes/a")

	src.create("a", mib)
	wantNames(t, at("volumes"), "a")
	wantNames(t, at("volumes/a"), "info.json", "live")
	wantNames(t, at("snapshots"), "a")
	wantNames(t, at("snapshots/a"))
	gone("snapshots/a/s1")

	s1 := src.snapshot("a", "s1", true)
	src.snapshot("a", "s2", false)
	wantNames(t, at("snapshots/a"), "s1", "s2")
	wantNames(t, at("snapshots/a/s1"), "disk.img", "info.json")
	wantNames(t, at("by-id"), s1.Root)
	wantNames(t, at("by-id/"+s1.Root), "disk.img")
	gone("by-id/" + strings.ToUpper(s1.Root))
	gone("by-id/" + strings.Repeat("0", 64))
	gone("by-id/nonsense")
	gone("volumes/a/nothing")

	src.removeSnapshot("a", "s1")
	wantNames(t, at("snapshots/a"), "s2")
	wantNames(t, at("by-id"))
	gone("snapshots/a/s1")
	gone("snapshots/a/s1/disk.img")
	gone("by-id/" + s1.Root)

	if err := src.remove("a"); err != nil {
		t.Fatal(err)
	}
	wantNames(t, at("volumes"))
	gone("volumes/a/live")
	wantNames(t, at("snapshots"), "a") // its snapshots are still there
	src.removeSnapshot("a", "s2")
	wantNames(t, at("snapshots"))
}

func TestTreeRefusesChanges(t *testing.T) {
	src := newFakeSource()
	src.create("a", mib)
	s := mountSource(t, src, Options{})
	for _, dir := range []string{"", "volumes", "volumes/a", "by-id"} {
		dir = filepath.Join(s.Dir(), dir)
		if err := os.Mkdir(filepath.Join(dir, "new"), 0o755); err == nil {
			t.Errorf("%s: mkdir worked", dir)
		}
		if _, err := os.Create(filepath.Join(dir, "new")); err == nil {
			t.Errorf("%s: create worked", dir)
		}
	}
	for _, name := range []string{"volumes", "volumes/a", "volumes/a/info.json"} {
		if err := os.Remove(filepath.Join(s.Dir(), name)); err == nil {
			t.Errorf("remove %s worked", name)
		}
		if err := os.Rename(filepath.Join(s.Dir(), name), filepath.Join(s.Dir(), "x")); err == nil {
			t.Errorf("rename %s worked", name)
		}
	}
	wantNames(t, filepath.Join(s.Dir(), "volumes/a"), "info.json", "live")
}

// A volume that took the name of a deleted one does not appear in a directory that was opened
// before.
func TestTreeReusedName(t *testing.T) {
	src := newFakeSource()
	src.create("a", mib)
	s := mountSource(t, src, Options{})
	old, err := os.OpenRoot(filepath.Join(s.Dir(), "volumes/a"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := old.Stat("live"); err != nil {
		t.Fatal(err)
	}
	if err := src.remove("a"); err != nil {
		t.Fatal(err)
	}
	b := src.create("a", 2*mib)
	_, err = old.Open("live")
	wantErrno(t, "open in the old directory", err, unix.ENOENT)
	if n := b.opens(); n != 0 {
		t.Errorf("the namesake has %d users", n)
	}
	if st, err := os.Stat(filepath.Join(s.Dir(), "volumes/a/live")); err != nil || st.Size() != 2*mib {
		t.Errorf("the new one: %v %v", st, err)
	}
}

func TestInodesAreStable(t *testing.T) {
	src := newFakeSource()
	src.create("a", mib)
	snap := src.snapshot("a", "s", true)
	paths := []string{
		"volumes", "volumes/a", "volumes/a/live", "volumes/a/info.json", "snapshots/a/s", "snapshots/a/s/disk.img",
		"by-id/" + snap.Root, "by-id/" + snap.Root + "/disk.img",
	}
	var before []uint64
	for range 2 {
		s := mountSource(t, src, Options{})
		var inodes []uint64
		for _, p := range paths {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(s.Dir(), p), &st); err != nil {
				t.Fatal(err)
			}
			inodes = append(inodes, st.Ino)
		}
		if before != nil && !slices.Equal(before, inodes) {
			t.Errorf("inode numbers were %v and are %v", before, inodes)
		}
		before = inodes
	}
	slices.Sort(before)
	if len(slices.Compact(before)) != len(paths) {
		t.Error("two files have one inode number")
	}
}

func TestInfo(t *testing.T) {
	src := newFakeSource()
	v := src.create("a", mib)
	v.users = []string{"ublk /dev/ublkb7"}
	src.snapshot("a", "s", true)
	s := mountSource(t, src, Options{})
	read := func(path string, into any) {
		t.Helper()
		path = filepath.Join(s.Dir(), path)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, text)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != int64(len(text)) {
			t.Errorf("%s: size %d, %v; the text has %d", path, st.Size(), err, len(text))
		}
		if cat := run(t, "cat", path); cat+"\n" != string(text) {
			t.Errorf("cat %s prints %q", path, cat)
		}
	}
	var vol struct {
		objstore.VolumeInfo
		Device string `json:"device"`
	}
	read("volumes/a/info.json", &vol)
	if vol.Name != "a" || vol.Size != mib || vol.Device != "/dev/ublkb7" || len(vol.Users) != 1 {
		t.Errorf("volume: %+v", vol)
	}
	var snap objstore.SnapshotInfo
	read("snapshots/a/s/info.json", &snap)
	if snap.Volume != "a" || snap.Name != "s" || snap.Root == "" || snap.Size != mib {
		t.Errorf("snapshot: %+v", snap)
	}
	_, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/a/info.json"), os.O_RDWR, 0)
	wantErrno(t, "write", err, unix.EROFS)
}

func TestManyEntries(t *testing.T) {
	src := newFakeSource()
	src.create("a", mib)
	var want []string
	for i := range 3000 {
		name := fmt.Sprintf("hourly-%04d", i)
		src.snapshot("a", name, false)
		want = append(want, name)
	}
	s := mountSource(t, src, Options{})
	wantNames(t, filepath.Join(s.Dir(), "snapshots/a"), want...)
}

func TestStatfs(t *testing.T) {
	src := newFakeSource()
	src.create("a", mib)
	s := mountSource(t, src, Options{})
	for _, p := range []string{"", "volumes/a/live"} {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(s.Dir(), p), &st); err != nil {
			t.Fatal(err)
		}
		if st.Bsize != 4096 || st.Blocks*4096 != 8<<20 || st.Bfree*4096 != 5<<20 {
			t.Errorf("%q: %+v", p, st)
		}
	}
}

// The name limit that statfs(2) reports is the actual one.
func TestNameLimit(t *testing.T) {
	src := newFakeSource()
	longest := "a:b+c" + strings.Repeat("x", objstore.MaxName-5)
	src.create(longest, mib)
	src.snapshot(longest, longest, true)
	s := mountSource(t, src, Options{})
	var st unix.Statfs_t
	if err := unix.Statfs(s.Dir(), &st); err != nil || st.Namelen != objstore.MaxName {
		t.Errorf("statfs: names of %d bytes at most (%v), want %d", st.Namelen, err, objstore.MaxName)
	}
	for _, dir := range []string{"", "volumes", "snapshots", "snapshots/" + longest, "by-id", "volumes/" + longest} {
		for name, want := range map[string]unix.Errno{longest[1:]: unix.ENOENT, longest + "x": unix.ENAMETOOLONG} {
			_, err := os.Stat(filepath.Join(s.Dir(), dir, name))
			wantErrno(t, filepath.Join(dir, name), err, want)
		}
	}
	for _, path := range []string{"volumes/" + longest + "/live", "snapshots/" + longest + "/" + longest + "/disk.img"} {
		if _, err := os.Stat(filepath.Join(s.Dir(), path)); err != nil {
			t.Error(err)
		}
	}
}
