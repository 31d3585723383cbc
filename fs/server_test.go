package fs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
	"varve/objstore"
)

func TestUnmountRefusesWhileBusy(t *testing.T) {
	v, f := liveMount(t, mib)
	dir := filepath.Dir(filepath.Dir(filepath.Dir(f.Name())))
	if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("unmounted under an open file: %v", err)
	}
	src := newFakeSource()
	busy := src.create("vol", mib)
	s := mountSource(t, src, Options{})
	open, err := os.Open(filepath.Join(s.Dir(), "volumes/vol/live"))
	if err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "Unmount of a busy mount", func() {
		if err := s.Unmount(); !errors.Is(err, ErrBusy) {
			t.Errorf("Unmount: %v, want ErrBusy", err)
		}
	})
	if _, err := open.ReadAt(make([]byte, 10), 0); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); err != nil {
		t.Errorf("Unmount after close: %v", err)
	}
	within(t, time.Second, "Wait", s.Wait)
	if busy.opens() != 0 || v.opens() != 1 {
		t.Error("the wrong volume is open")
	}
	if err := s.Unmount(); err != nil {
		t.Errorf("second Unmount: %v", err)
	}
}

func TestForceUnmountClosesVolumes(t *testing.T) {
	src := newFakeSource()
	v := src.create("vol", mib)
	s := mountSource(t, src, Options{})
	f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	within(t, time.Minute, "ForceUnmount", func() {
		if err := s.ForceUnmount(); err != nil {
			t.Error(err)
		}
	})
	if n := v.opens(); n != 0 {
		t.Errorf("%d users are left", n)
	}
	within(t, time.Second, "a read of the dead mount", func() {
		if _, err := f.ReadAt(make([]byte, 10), 0); err == nil {
			t.Error("a read of the dead mount worked")
		}
	})
}

// ForceUnmount ends a request that the store does not answer.
func TestForceUnmountDuringRequest(t *testing.T) {
	src := newFakeSource()
	v := src.create("vol", mib)
	s := mountSource(t, src, Options{})
	f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v.mu.Lock() // from now on every request waits
	failed := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("stuck"), 0)
		failed <- err
	}()
	time.Sleep(50 * time.Millisecond)
	go func() {
		time.Sleep(200 * time.Millisecond)
		v.mu.Unlock()
	}()
	if err := s.ForceUnmount(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the write worked")
		}
	case <-time.After(time.Minute):
		t.Fatal("the write hangs")
	}
}

// Another mount namespace can hold a mount that is gone from this one. Unmount returns ErrBusy,
// ForceUnmount ends it.
func TestUnmountHeldByOtherNamespace(t *testing.T) {
	need.These(t, need.Program("unshare"))
	s := mountSource(t, newFakeSource(), Options{})
	s.timeout = 300 * time.Millisecond
	holder := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "cat")
	in, out := startPiped(t, holder)
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has its own namespace now
		t.Fatal(err)
	}
	if err := s.Unmount(); !errors.Is(err, ErrBusy) {
		t.Errorf("Unmount: %v, want ErrBusy", err)
	}
	if err := s.ForceUnmount(); err != nil {
		t.Error(err)
	}
	within(t, time.Second, "Wait", s.Wait)
	if err := errors.Join(in.Close(), holder.Wait()); err != nil {
		t.Error(err)
	}
}

// broken panics instead of answering.
type broken struct{ *fakeSource }

func (broken) Snapshots(string) ([]objstore.SnapshotInfo, error) { panic("a bug") }

func TestPanicFailsOneRequest(t *testing.T) {
	var log bytes.Buffer
	s := mountSource(t, broken{newFakeSource()}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	_, err := os.ReadDir(filepath.Join(s.Dir(), "snapshots"))
	wantErrno(t, "a request that panics", err, unix.EIO)
	wantNames(t, s.Dir(), "by-id", "diff", "history", "snapshots", "volumes")
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "broken.Snapshots") {
		t.Errorf("the log does not name the panic and its stack: %s", log.String())
	}
}

func TestUnmountedByAnotherProcess(t *testing.T) {
	s := mountSource(t, newFakeSource(), Options{})
	if err := unix.Unmount(s.Dir(), 0); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "Wait", s.Wait)
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestMountTwice(t *testing.T) {
	s := mountSource(t, newFakeSource(), Options{})
	if _, err := Mount(s.Dir(), newFakeSource(), Options{}); !errors.Is(err, ErrMounted) {
		t.Errorf("second mount: %v, want ErrMounted", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(s.Dir(), link); err != nil {
		t.Fatal(err)
	}
	if _, err := Mount(link, newFakeSource(), Options{}); !errors.Is(err, ErrMounted) {
		t.Errorf("second mount by a link: %v, want ErrMounted", err)
	}
}

func TestMountMissingDirectory(t *testing.T) {
	s, err := Mount(filepath.Join(t.TempDir(), "missing"), newFakeSource(), Options{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v; want it not to exist", s, err)
	}
}

// Other users can open nothing of a mount, and with AllowOther everything except the live files.
func TestAllowOther(t *testing.T) {
	src := newFakeSource()
	src.create("vol", mib)
	src.snapshot("vol", "s", true)
	for _, allow := range []bool{false, true} {
		s := mountSource(t, src, Options{AllowOther: allow})
		if err := os.Chmod(filepath.Dir(s.Dir()), 0o755); err != nil { // of the test's directory
			t.Fatal(err)
		}
		for path, want := range map[string]bool{
			"volumes/vol/info.json": allow, "snapshots/vol/s/disk.img": allow, "volumes/vol/live": false,
		} {
			if err := asNobody(filepath.Join(s.Dir(), path)); (err == nil) != want {
				t.Errorf("AllowOther %v: nobody opens %s: %v", allow, path, err)
			}
		}
	}
}

// asNobody opens a file with the rights of the user nobody.
func asNobody(path string) error {
	cmd := exec.Command("head", "-c1", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
