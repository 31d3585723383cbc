//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// freeNode returns the path of the next ublk device.
func freeNode(t *testing.T) string {
	t.Helper()
	for i := 0; ; i++ {
		path := fmt.Sprintf("/dev/ublkb%d", i)
		if _, err := os.Lstat(path); err != nil {
			return path
		}
	}
}

// impostor puts another file at the path of a device, until the end of the test or a call of the
// returned function.
func impostor(t *testing.T, path string, put func(path string) error) (restore func()) {
	t.Helper()
	away := path + ".away"
	renamed := os.Rename(path, away) == nil
	if err := put(path); err != nil {
		t.Fatal(err)
	}
	done := false
	restore = func() {
		if done {
			return
		}
		done = true
		_ = os.Remove(path)
		if renamed {
			_ = os.Rename(away, path)
		}
	}
	t.Cleanup(restore)
	return restore
}

func touch(path string) error { return os.WriteFile(path, nil, 0o600) }

// TestNodePathTaken: attach never returns a path that leads to anything but the device, and leaves
// nothing behind when it fails. A device that is taken over is served regardless. detach does not
// take such a path for the device.
func TestNodePathTaken(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	n.varve(ctx, "volume", "create", "a", "--size", "16M")
	dev := freeNode(t)
	before := charDevices(t)
	for says, put := range map[string]func(string) error{
		"is a file of 0 bytes":           touch,
		"is a character device 1:5":      func(path string) error { return os.Symlink("/dev/zero", path) },
		"is a directory":                 func(path string) error { return os.Mkdir(path, 0o700) },
		"is a block device 7:0, not the": func(path string) error { return os.Symlink("/dev/loop0", path) },
	} {
		restore := impostor(t, dev, put)
		n.refuse(ctx, []string{dev, says, "block device", "remove what is there"}, "attach", "a", "--transport", "ublk")
		restore()
		if left := charDevices(t); len(left) != len(before) {
			t.Fatalf("an attach that failed has left %q", left)
		}
	}
	char := strings.Replace(dev, "ublkb", "ublkc", 1)
	restore := impostor(t, char, touch)
	n.refuse(ctx, []string{char, "is a file", "character device"}, "attach", "a", "--transport", "ublk")
	restore()
	loop := strings.TrimSpace(must(ctx, t, "losetup", "-f"))
	restore = impostor(t, loop, touch)
	n.refuse(ctx, []string{loop, "is a file", "block device"}, "attach", "a", "--transport", "loop")
	restore()

	if got := n.attach(ctx, "a"); got != dev {
		t.Fatalf("attached as %s, want %s", got, dev)
	}
	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	n.kill(ctx)
	restore = impostor(t, dev, touch)
	n.serve(ctx)
	wantLog(t, n, "leads to something else", dev, "is a file of 0 bytes")
	must(ctx, t, "sh", "-c", "echo hello >"+filepath.Join(m.dir, "file")+" && sync -f "+m.dir)
	n.refuse(ctx, []string{dev, "is a file", "name the volume"}, "detach", dev)
	n.refuse(ctx, []string{"in use"}, "detach", "a")
	m.unmount(ctx)
	n.varve(ctx, "detach", "a")
	if _, err := os.Lstat(dev); err != nil {
		t.Errorf("the file at the device's path was removed: %v", err)
	}
	restore()

	loop = n.attach(ctx, "a", "--transport", "loop")
	restore = impostor(t, loop, touch)
	n.refuse(ctx, []string{loop, "is a file"}, "detach", "a")
	restore()
	n.varve(ctx, "detach", "a")
}

// TestNodesWithoutDevtmpfs: in a container whose /dev is not a devtmpfs the daemon creates and
// removes the nodes.
func TestNodesWithoutDevtmpfs(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.varve(ctx, "volume", "create", "a", "--size", "16M")
	for _, transport := range []string{"ublk", "loop"} {
		out := must(ctx, t, "unshare", "-m", "sh", "-ec", `
			export VARVE_STORE="$1"
			mkdir -p /run/devs
			cp -a /dev/ublk-control /dev/loop-control /dev/fuse /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /run/devs/
			mount -t tmpfs -o mode=755 none /dev
			cp -a /run/devs/. /dev/
			"$0" serve --background
			dev=$("$0" attach a --transport "$2")
			test -b "$dev"
			dd if=/dev/urandom of="$dev" bs=1M count=1 oflag=direct status=none
			dd if="$dev" bs=1M count=1 iflag=direct status=none | sha256sum >/run/devs/first
			if [ "$2" = ublk ]; then
				"$0" detach a
				ls /dev
				test "$("$0" attach a)" = "$dev"
			fi
			pid=$("$0" stat --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1)
			if [ "$2" = ublk ]; then
				kill -9 "$pid"
				"$0" serve --background
			fi
			dd if="$dev" bs=1M count=1 iflag=direct status=none | sha256sum | cmp - /run/devs/first
			"$0" detach a
			"$0" stop
		`, varve, n.store, transport)
		if transport == "ublk" && strings.Contains(out, "ublkb") {
			t.Errorf("after detach the nodes that were made are there: %q", out)
		}
	}
}
