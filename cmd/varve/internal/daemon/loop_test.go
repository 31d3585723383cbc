package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
	"varve/fs/loopdev"
	"varve/objstore"
)

// loopWorld is a transport over a store with the volume a.
func loopWorld(t *testing.T) *loopTransport {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	store, err := objstore.Open(t.Context(), dir, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := store.CreateVolume(t.Context(), "a", objstore.VolumeOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	return &loopTransport{store: store, dir: filepath.Join(t.TempDir(), "mounts"), log: slog.New(slog.DiscardHandler)}
}

// attachLoop skips where the machine has no loop devices; the test kernel has.
func attachLoop(t *testing.T, l *loopTransport) *loopDevice {
	t.Helper()
	dev, _, err := l.Attach(t.Context(), protocol.Attach{Volume: "a"})
	if errors.Is(err, protocol.ErrNoTransport) && os.Getenv("VARVE_VM") == "" {
		t.Skipf("missing feature: loop devices over a FUSE mount: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dev.(*loopDevice)
}

// A device that somebody else has detached goes like any other, and leaves nothing.
func TestStopOfLoopDeviceThatIsGone(t *testing.T) {
	l := loopWorld(t)
	d := attachLoop(t, l)
	if err := loopdev.Detach(t.Context(), d.node, false); err != nil {
		t.Fatal(err)
	}
	<-d.Done()
	if err := d.Stop(t.Context(), false); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.dir); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the directory of mounts is left: %v", err)
	}
}

// The last mount point takes the directories above it along; before that they stay. One that
// vanishes while another is made is made again.
func TestMountPointsLeaveNothing(t *testing.T) {
	ofStore := filepath.Join(t.TempDir(), "store")
	for _, name := range []string{"a", "b"} {
		if err := makeMountPoint(filepath.Join(ofStore, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b", "never"} {
		if err := removeMountPoint(filepath.Join(ofStore, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(ofStore); (err == nil) != (name == "a") {
			t.Errorf("after %s the directory of the store: %v", name, err)
		}
	}
	// In the true place too, where nobody else's mounts are.
	dir := filepath.Join(runDir, "00000000-test", "a")
	if err := makeMountPoint(dir); errors.Is(err, os.ErrPermission) {
		return // a user has none
	} else if err != nil {
		t.Fatal(err)
	}
	if err := removeMountPoint(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(runDir); err == nil && len(left) == 0 {
		t.Errorf("%s is left, and empty", runDir)
	}
}

// A node that has become somebody else's meanwhile stays theirs.
func TestStopOfLoopDeviceOfAnother(t *testing.T) {
	l := loopWorld(t)
	d := attachLoop(t, l)
	if err := loopdev.Detach(t.Context(), d.node, false); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "theirs")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs, err := loopdev.Attach(t.Context(), file, loopdev.Options{Buffered: true})
	if err != nil {
		t.Fatal(err)
	}
	if theirs.Path != d.node {
		t.Errorf("the other device is %s, not %s", theirs.Path, d.node)
	}
	if err := d.Stop(t.Context(), true); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := loopdev.Detach(t.Context(), theirs.Path, false); err != nil {
		t.Errorf("the other device: %v", err)
	}
}
