package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func TestMounts(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	wantError(t, w.c.Mount(t.Context(), protocol.Mount{Dir: dir}), objstore.ErrExists, dir)
	for bad, word := range map[string]string{
		w.dir: "in the store", filepath.Dir(w.dir): "hide the store", dir + "/none": "no such file", "relative": "absolute",
	} {
		err := w.c.Mount(t.Context(), protocol.Mount{Dir: bad})
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("mount at %s: %v, want %q", bad, err, word)
		}
	}
	m := w.mounter.mounts[dir]
	m.busy = true
	wantError(t, w.c.Unmount(t.Context(), protocol.Unmount{Dir: dir}), protocol.ErrBusy, dir)
	s := w.d.Release(t.Context(), false)
	if !m.forced || len(s.Unmounted) != 1 || len(s.Notes) != 1 {
		t.Errorf("released: %+v, by force: %v", s, m.forced)
	}
	wantError(t, w.c.Unmount(t.Context(), protocol.Unmount{Dir: dir}), protocol.ErrStopping)
}

// hungDir is a directory at which every look waits, until the test ends.
func hungDir(t *testing.T) string {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("missing feature: /dev/fuse: %v", err)
	}
	dir := t.TempDir()
	// Nobody answers its server's first request.
	err = unix.Mount("hung", dir, "fuse", unix.MS_NODEV|unix.MS_NOSUID, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	if err != nil {
		_ = unix.Close(fd)
		t.Skipf("missing feature: root: %v", err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fd) // whoever waits gets an error
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A path at which a look waits, perhaps for one of our own devices, holds up who names it and
// nobody else.
func TestHungPathHoldsUpNobody(t *testing.T) {
	w := newWorld(t, "a")
	var hung sync.WaitGroup
	t.Cleanup(hung.Wait)
	dir := hungDir(t)
	hung.Go(func() { _ = w.c.Mount(context.Background(), protocol.Mount{Dir: dir}) })
	hung.Go(func() { _, _ = w.c.Detach(context.Background(), protocol.Detach{Target: dir + "/device"}) })
	time.Sleep(50 * time.Millisecond)
	done := make(chan error, 1)
	go func() {
		_, err := w.c.Attach(context.Background(), protocol.Attach{Volume: "a"})
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("an attach waits for somebody else's path")
	}
}

// A volume's live file is not to be written while the volume has a device, served or waiting, and
// the mounts forget what they show of it when it gets or loses one.
func TestLiveOfAttachedVolume(t *testing.T) {
	w := newWorld(t, "a", "b")
	dir := t.TempDir()
	if err := w.c.Mount(t.Context(), protocol.Mount{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	m := w.mounter.mounts[dir]
	if err := w.d.mayWriteLive("a"); err != nil {
		t.Error(err)
	}
	a := w.attach(t, "a")
	wantNodes(t, m.refreshes(), "a")
	wantError(t, w.d.mayWriteLive("a"), objstore.ErrInUse, a.Device, "--shared-live")
	if err := w.d.mayWriteLive("b"); err != nil {
		t.Error(err)
	}
	w.d.reviveAfter = 0
	w.ublk.set(fmt.Errorf("broken"), true, a.Attachment)
	w.ublk.device("a").end("failed")
	eventually(t, "the device waits", func() bool {
		return w.triesAgain("a")
	})
	wantError(t, w.d.mayWriteLive("a"), objstore.ErrInUse, a.Device)
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "a", Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.d.mayWriteLive("a"); err != nil {
		t.Error(err)
	}
	w.attach(t, "b")
	m.refreshes()
	if _, err := w.c.Detach(t.Context(), protocol.Detach{Target: "b"}); err != nil {
		t.Fatal(err)
	}
	wantNodes(t, m.refreshes(), "b")
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		dir, path string
		want      bool
	}{{"/a", "/a", true}, {"/a", "/a/b", true}, {"/a", "/ab", false}, {"/", "/a", true}, {"/a/b", "/a", false}} {
		if within(c.dir, c.path) != c.want {
			t.Errorf("within(%q, %q) is %v", c.dir, c.path, !c.want)
		}
	}
}
