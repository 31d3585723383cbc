package devnode

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var null = Node{Path: "/dev/null", Char: true, Major: 1, Minor: 3}

// at puts the null device's node at another path.
func at(path string) *Node { return &Node{Path: path, Char: true, Major: 1, Minor: 3} }

func TestCheckNode(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		node Node
		err  error
		says string
	}{
		{null, nil, ""},
		{*at(link), nil, ""},
		{*at(file), ErrNotDevice, "is a file of 5 bytes, not the device: that is character device 1:3; remove"},
		{*at(dir), ErrNotDevice, "is a directory"},
		{*at("/dev/zero"), ErrNotDevice, "is a character device 1:5"},
		{Node{Path: "/dev/null", Major: 1, Minor: 3}, ErrNotDevice, "is a character device 1:3, not the device: that is block device 1:3"},
		{*at(filepath.Join(dir, "none")), os.ErrNotExist, "none"},
	} {
		err := c.node.Check()
		if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s as %v: %v, want %v that says %q", c.node.Path, &c.node, err, c.err, c.says)
		}
		fd, err := c.node.Open(unix.O_RDWR)
		if !errors.Is(err, c.err) {
			t.Errorf("open %s as %v: %v, want %v", c.node.Path, &c.node, err, c.err)
		}
		if err == nil {
			_ = unix.Close(fd)
		}
	}
}

// A node that comes a moment later is waited for; what comes instead of it is named.
func TestAwaitNode(t *testing.T) {
	for target, want := range map[string]error{"/dev/null": nil, "/dev/zero": ErrNotDevice} {
		n := at(filepath.Join(t.TempDir(), "node"))
		go func() {
			time.Sleep(20 * time.Millisecond)
			_ = os.Symlink(target, n.Path)
		}()
		if made, err := n.await(t.Context(), time.Minute); made || !errors.Is(err, want) {
			t.Errorf("a link to %s: %v, %v; want %v", target, made, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := at(filepath.Join(t.TempDir(), "node")).await(ctx, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was called off: %v", err)
	}
}

// A node that nobody makes is made, and removed again; where it can't be, the error says how it
// would be.
func TestMakeNode(t *testing.T) {
	n := at(filepath.Join(t.TempDir(), "node"))
	made, err := n.await(t.Context(), 0)
	switch {
	case errors.Is(err, unix.EPERM):
		if !errors.Is(err, ErrNoNode) || !strings.Contains(err.Error(), "mknod -m 600 "+n.Path+" c 1 3") {
			t.Errorf("a node that may not be made: %v", err)
		}
	case !made || err != nil:
		t.Errorf("a node that nobody makes: %v, %v", made, err)
	default:
		if err := errors.Join(n.Check(), n.Remove(), n.Remove()); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(n.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after it was removed: %v", err)
		}
	}
	away := at(filepath.Join(t.TempDir(), "none", "node"))
	if _, err := away.await(t.Context(), 0); !errors.Is(err, ErrNoNode) || !strings.Contains(err.Error(), "mknod") {
		t.Errorf("a node in no directory: %v", err)
	}
}

// A node that was left over from a device that is gone is replaced; that of another device is not.
func TestNodeThatIsLeftOver(t *testing.T) {
	for number, want := range map[int]error{int(unix.Mkdev(511, 77)): nil, int(unix.Mkdev(1, 5)): ErrNotDevice} {
		n := at(filepath.Join(t.TempDir(), "node"))
		if err := unix.Mknod(n.Path, unix.S_IFCHR|0o600, number); err != nil {
			if os.Getenv("VARVE_VM") != "" {
				t.Fatal(err)
			}
			t.Skipf("missing feature: making device nodes: %v", err)
		}
		if _, err := n.await(t.Context(), 0); !errors.Is(err, want) {
			t.Errorf("in the place of %#x: %v, want %v", number, err, want)
		}
	}
}

// What has taken the place of a node is not removed.
func TestRemoveOfOtherNode(t *testing.T) {
	n := at(filepath.Join(t.TempDir(), "node"))
	if err := os.WriteFile(n.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(n.Path); err != nil {
		t.Error(err)
	}
}

func TestNumberOfBlockDevice(t *testing.T) {
	list, err := os.ReadDir("/sys/class/block")
	if err != nil || len(list) == 0 {
		t.Skip("missing feature: block devices in sysfs")
	}
	n, err := Block(list[0].Name())
	if err != nil || n.Major == 0 || n.Char || n.Path != "/dev/"+list[0].Name() {
		t.Errorf("%s is %+v, %v", list[0].Name(), n, err)
	}
	if _, err := Block("none-of-that-name"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
}
