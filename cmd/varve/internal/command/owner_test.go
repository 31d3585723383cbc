package command

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// someUser is the ID of a user and a group that are not root.
const someUser = 65534

// newUsersNode makes a store of a user who is not root.
func newUsersNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing feature: root")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{t: t, dir: filepath.Join(dir, "store"), logs: filepath.Join(t.TempDir(), "log")}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(n.dir, someUser, someUser); err != nil {
		t.Fatal(err)
	}
	return n
}

// foreign are the files of the store that are not the user's.
func (n *node) foreign() []string {
	n.t.Helper()
	var list []string
	err := filepath.WalkDir(n.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.Sys().(*syscall.Stat_t).Uid != someUser {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// What root does with a user's store, with and without a daemon, leaves it the user's: every file,
// and also those of a daemon that was killed, or that it has made when others had removed them.
func TestRootLeavesStoreToItsOwner(t *testing.T) {
	t.Parallel()
	n := newUsersNode(t)
	check := func(after string) {
		t.Helper()
		if list := n.foreign(); len(list) > 0 {
			t.Errorf("after %s these files are root's: %v", after, list)
		}
	}
	n.must("init")
	check("init")
	n.must("volume", "create", "a", "--size", "4M")
	n.must("stat")
	n.must("check")
	check("commands without a daemon")
	n.serve()
	n.must("snapshot", "create", "a@s", "--wait")
	check("serve")
	if err := os.Remove(filepath.Join(n.dir, "varve.sock")); err != nil {
		t.Fatal(err)
	}
	n.must("stat")
	check("a new socket")
	n.must("stop")
	if code := n.end(); code != exitOK {
		t.Fatalf("status %d\n%s", code, n.log())
	}
	n.must("serve", "--background", "--lock-memory=false")
	check("serve in the background")
	n.must("stop")
	check("stop")

	n.uid = someUser
	n.must("volume", "create", "b", "--size", "4M")
	n.must("serve", "--background", "--lock-memory=false")
	n.must("snapshot", "create", "b@s", "--wait")
	n.must("stop")

	// An older version of root's has left an index that the owner can't read: it is made anew.
	n.uid = 0
	index := filepath.Join(n.dir, "index")
	entries, err := os.ReadDir(index)
	if err != nil || len(entries) == 0 {
		t.Fatalf("the index has %d files (%v)", len(entries), err)
	}
	for _, e := range entries {
		if err := unix.Lchown(filepath.Join(index, e.Name()), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	n.uid = someUser
	n.must("volume", "create", "c", "--size", "4M")
	check("an index that was root's")
}
