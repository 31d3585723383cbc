package command

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// snapshotOf says of every file of the store what a look must leave as it was.
func snapshotOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		files[path] = fi.Mode().String() + fi.ModTime().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			files[path] += string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Commands that look change nothing in a store without a daemon, not even in one whose daemon was
// killed, and several look at the same time.
func TestLooksChangeNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve("--settle-delay", "1h")
	n.must("volume", "create", "a", "--size", "4M")
	n.must("snapshot", "create", "a@s")
	n.kill() // there is something to recover
	before := snapshotOf(t, n.dir)
	for _, args := range [][]string{
		{"stat"}, {"volume", "list"}, {"volume", "show", "a"}, {"snapshot", "list"}, {"check"},
	} {
		out := n.must(args...)
		if args[0] != "stat" && args[0] != "check" && !strings.Contains(out, "a") {
			t.Errorf("varve %v: %s", args, out)
		}
		for path, was := range before {
			if now := snapshotOf(t, n.dir)[path]; now != was {
				t.Fatalf("varve %v has changed %s", args, path)
			}
		}
		if after := snapshotOf(t, n.dir); len(after) != len(before) {
			t.Fatalf("varve %v: %d files were %d", args, len(after), len(before))
		}
	}
	n.must("volume", "create", "b", "--size", "4M") // and it works as before
}

// A store that nobody may write to can be looked at: by a user whom its directory does not let, and
// on a file system that is read-only. What has to write says why it can't.
func TestReadOnlyStore(t *testing.T) {
	t.Parallel()
	n := newUsersNode(t)
	n.uid = someUser
	n.must("init")
	n.must("volume", "create", "a", "--size", "4M")
	n.must("snapshot", "create", "a@s")
	n.chmod(0o500, 0o400)
	n.looks()
	n.refused([]string{"denied"}, "volume", "create", "b", "--size", "4M")
	n.refused([]string{"denied"}, "serve")
	n.chmod(0o700, 0o600)
	n.must("volume", "create", "b", "--size", "4M")

	n.uid = 0
	ro := filepath.Join(t.TempDir(), "ro")
	if err := os.Mkdir(ro, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(n.dir, ro, "", unix.MS_BIND, ""); err != nil {
		t.Logf("no bind mount here (%v): the test kernel has one", err)
		return
	}
	defer func() { _ = unix.Unmount(ro, unix.MNT_DETACH) }()
	if err := unix.Mount("", ro, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	n.dir = ro
	n.looks()
	n.refused([]string{"read-only file system"}, "volume", "create", "c", "--size", "4M")
	n.refused([]string{"read-only file system"}, "serve")
}

// looks are all that needs no writes.
func (n *node) looks() {
	n.t.Helper()
	n.must("stat")
	n.must("check")
	for _, args := range [][]string{{"volume", "list"}, {"snapshot", "list"}} {
		if out := n.must(args...); !strings.Contains(out, "a") {
			n.t.Errorf("varve %v: %s", args, out)
		}
	}
}

// chmod returns the store's directories and files modes.
func (n *node) chmod(dir, file fs.FileMode) {
	n.t.Helper()
	err := filepath.WalkDir(n.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, dir)
		}
		return os.Chmod(path, file)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
