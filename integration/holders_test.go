//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRefusalsNameHolders uses devices and a mount in every possible way, and checks that errors
// name the users.
func TestRefusalsNameHolders(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	for _, transport := range []string{"ublk", "loop"} {
		t.Run(transport, func(t *testing.T) { refusalsOfDevice(ctx, t, n, transport) })
	}
	t.Run("mount", func(t *testing.T) { refusalsOfMount(ctx, t, n) })
	// Nothing is in use any more: everything can be removed, including the directory of private
	// mounts.
	n.stop(ctx)
	if _, err := os.Stat("/run/varve"); err == nil {
		t.Error("/run/varve is left behind")
	}
}

func refusalsOfDevice(ctx context.Context, t *testing.T, n *node, transport string) {
	dev := n.volume(ctx, transport, "256M", "--transport", transport)
	refuse := func(words ...string) {
		t.Helper()
		words = append([]string{dev, "in use", "--force"}, words...)
		n.refuse(ctx, words, "detach", transport)
		if transport == "ublk" {
			n.refuse(ctx, words[1:], "ublk", "del", dev)
		} else {
			n.refuse(ctx, append(words[3:], dev, "--detach"), "stop")
		}
	}
	reader := holdOpen(ctx, t, dev)
	n.refuse(ctx, []string{dev, "in use", fmt.Sprintf("open in process %d (sleep)", reader.cmd.Process.Pid)}, "detach", transport)
	reader.end(t)

	must(ctx, t, "mkswap", dev)
	must(ctx, t, "swapon", dev)
	refuse("swap on " + dev)
	must(ctx, t, "swapoff", dev)

	fsNamed("ext4").make(ctx, t, dev)
	m := mount(ctx, t, dev, "")
	refuse("mounted at " + m.dir)
	// The same in another mount namespace only.
	apart := start(t, "unshare", "-m", "--propagation", "private", "sh", "-c", "sleep 1000 & wait")
	eventually(t, 20*time.Second, "a namespace of its own", func() bool {
		mine, _ := os.Readlink("/proc/self/ns/mnt")
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", apart.cmd.Process.Pid))
		return err == nil && its != mine
	})
	dir := m.dir
	m.unmount(ctx)
	refuse(fmt.Sprintf("mounted at %s in the mount namespace of process %d (sh)", dir, apart.cmd.Process.Pid))
	apart.stop(ctx, t, syscall.SIGKILL)
	awaitUnclaimed(t, dev)

	// A device mapper device over it, and a mount of that.
	name := "over-" + transport
	must(ctx, t, "dmsetup", "create", name, "--noudevsync", "--table", fmt.Sprintf("0 %d linear %s 0", 256<<11, dev))
	t.Cleanup(func() { run(context.Background(), "dmsetup", "remove", "--force", "--noudevsync", name) })
	node := "/dev/dm-" + must(ctx, t, "dmsetup", "info", "-c", "--noheadings", "-o", "minor", name)
	over := mount(ctx, t, node, "")
	refuse(node+" ("+name+") on top of "+dev, node+" mounted at "+over.dir)
	over.unmount(ctx)
	must(ctx, t, "dmsetup", "remove", "--noudevsync", name)

	if transport == "ublk" {
		again := mount(ctx, t, dev, "")
		r := n.try(ctx, "stop") // the device is left to the next daemon
		if r.code != 0 || !strings.Contains(r.stderr, dev+` (volume "ublk") is open (mounted at `+again.dir+")") {
			t.Errorf("varve stop: status %d, %s", r.code, r.stderr)
		}
		n.awaitEnd(ctx)
		n.serve(ctx)
		again.unmount(ctx)
	}
	n.varve(ctx, "detach", transport)
}

func refusalsOfMount(ctx context.Context, t *testing.T, n *node) {
	dir := n.fuse(ctx)
	n.varve(ctx, "snapshot", "create", "ublk@s", "--wait")
	live := filepath.Join(dir, "volumes/ublk/live")

	reader := holdOpen(ctx, t, live)
	who := fmt.Sprintf("open in process %d (sleep)", reader.cmd.Process.Pid)
	n.refuse(ctx, []string{dir, "in use", who}, "umount", dir)
	n.varve(ctx, "snapshot", "delete", "ublk@s")
	n.refuse(ctx, []string{"volume", "in use", "volumes/ublk", who}, "volume", "delete", "ublk")
	if r := n.try(ctx, "volume", "delete", "ublk"); strings.Contains(r.stderr, "[fuse]") {
		t.Errorf("varve volume delete: %s", r.stderr)
	}
	n.refuse(ctx, []string{dir, "in use", who, "--remount"}, "upgrade")
	reader.end(t)

	n.varve(ctx, "snapshot", "create", "ublk@s", "--wait")
	image := filepath.Join(dir, "snapshots/ublk/s/disk.img")
	loop := must(ctx, t, "losetup", "-f", "--show", "-r", image)
	n.refuse(ctx, []string{dir, "in use", loop + " over " + image}, "umount", dir)
	must(ctx, t, "losetup", "-d", loop)

	inside := exec.Command("sleep", "1000")
	inside.Dir = filepath.Join(dir, "snapshots")
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	n.refuse(ctx, []string{dir, "in use", fmt.Sprintf("process %d (sleep)", inside.Process.Pid)}, "umount", dir)
	_ = inside.Process.Kill()
	_ = inside.Wait()
	n.varve(ctx, "umount", dir)
}

// holder starts a process that has a file open.
type holder struct{ *background }

func holdOpen(ctx context.Context, t *testing.T, path string) holder {
	t.Helper()
	h := holder{start(t, "sh", "-c", `exec sleep 1000 <"$0"`, path)}
	eventually(t, 20*time.Second, "sleep has "+path+" open", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.cmd.Process.Pid))
		return strings.TrimSpace(string(comm)) == "sleep"
	})
	if err := ctx.Err(); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h holder) end(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-h.done
}
