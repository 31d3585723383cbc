package fs

import (
	"bufio"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

func openLive(t *testing.T, s *Server, flags int) (*os.File, error) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), flags, 0)
	if err == nil {
		t.Cleanup(func() { _ = f.Close() })
	}
	return f, err
}

// Only one of a volume's device and its live file can be written, unless the mount shares.
func TestLiveExcludesDevice(t *testing.T) {
	src := newFakeSource()
	v := src.create("vol", mib)
	s := mountSource(t, src, Options{})
	shared := mountSource(t, src, Options{SharedLive: true})
	release, err := v.Claim(objstore.SideDevice)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openLive(t, s, os.O_RDWR)
	wantErrno(t, "open for writing under a device", err, unix.EBUSY)
	_, err = openLive(t, s, os.O_WRONLY)
	wantErrno(t, "open for writing alone under a device", err, unix.EBUSY)
	if n := v.opens(); n != 0 {
		t.Errorf("refused opens left the volume open %d times", n)
	}
	if _, err := openLive(t, s, os.O_RDONLY); err != nil {
		t.Errorf("open for reading under a device: %v", err)
	}
	if _, err := openLive(t, shared, os.O_RDWR); err != nil {
		t.Errorf("open for writing in a mount that shares: %v", err)
	}
	release()
	f, err := openLive(t, s, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Claim(objstore.SideDevice); !errors.Is(err, objstore.ErrInUse) {
		t.Errorf("a device while live is open for writing: %v", err)
	}
	_ = f.Close()
	eventually(t, "the volume is free for a device", func() bool {
		release, err := v.Claim(objstore.SideDevice)
		if err == nil {
			release()
		}
		return err == nil
	})
}

// A mount that serves a device counts as the device.
func TestMountForDevice(t *testing.T) {
	src := newFakeSource()
	src.create("vol", mib)
	private, s := mountSource(t, src, Options{ForDevice: true}), mountSource(t, src, Options{})
	if _, err := openLive(t, private, os.O_RDONLY); err != nil {
		t.Fatal(err)
	}
	if _, err := openLive(t, private, os.O_RDWR); err != nil {
		t.Fatal(err)
	}
	_, err := openLive(t, s, os.O_RDWR)
	wantErrno(t, "open for writing beside the mount under a device", err, unix.EBUSY)
}

// peekEnv names the file that the test program maps, instead of running tests. It prints the byte
// at offset 100 for each line of its input. The process that serves a mount must not touch a
// mapping of the mount's files: no garbage collection can begin while the kernel waits for the
// page, and the goroutine that serves the page may wait for one.
const peekEnv = "VARVE_FS_TEST_PEEK"

func peek(path string) {
	f, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(m[100])
	}
}

// mapped maps the first page of the live file in another process, and returns a function that reads
// the byte at offset 100 through the mapping.
func mapped(t *testing.T, s *Server) func() byte {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), peekEnv+"="+filepath.Join(s.Dir(), "volumes/vol/live"))
	cmd.Stderr = os.Stderr
	in, out := startPiped(t, cmd)
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process with the mapping: %v", err)
		}
	})
	return func() (b byte) {
		t.Helper()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscanln(out, &b); err != nil {
			t.Fatalf("the process with the mapping does not answer: %v", err)
		}
		return b
	}
}

// A device's write is visible in mappings of live after Refresh, and within a moment in a mount
// that shares.
func TestMappingsShowDeviceWrites(t *testing.T) {
	for _, share := range []bool{false, true} {
		src := newFakeSource()
		v := src.create("vol", mib)
		s := mountSource(t, src, Options{SharedLive: share})
		at100 := mapped(t, s)
		if at100() != 0 {
			t.Fatal("not zero at first")
		}
		if _, err := v.WriteAt(noise(4096), 0); err != nil {
			t.Fatal(err)
		}
		if !share {
			s.Refresh("other")
			if at100() == noise(4096)[100] {
				t.Error("the kernel keeps no pages: this test shows nothing")
			}
			s.Refresh("vol")
			if at100() != noise(4096)[100] {
				t.Error("a mapping shows outdated data after Refresh")
			}
			continue
		}
		eventually(t, "the mapping shows what the device wrote", func() bool { return at100() == noise(4096)[100] })
	}
}

// A mount that shares reports its writes: at once at an fsync, and within a moment without one.
func TestSharedLiveReportsWrites(t *testing.T) {
	src := newFakeSource()
	src.create("vol", mib)
	var told atomic.Int64
	s := mountSource(t, src, Options{SharedLive: true, Written: func(volume string) {
		if volume != "vol" {
			t.Errorf("written: %q", volume)
		}
		told.Add(1)
	}})
	f, err := openLive(t, s, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil || told.Load() != 0 {
		t.Errorf("told %d times before a write (%v)", told.Load(), err)
	}
	if _, err := f.WriteAt(noise(512), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil || told.Load() != 1 {
		t.Errorf("told %d times at a write and fsync (%v), want once", told.Load(), err)
	}
	if _, err := f.WriteAt(noise(512), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "told of a write", func() bool { return told.Load() == 2 })
}

// The mount has no file handles: one would be ESTALE once the kernel has forgotten the file.
func TestNoFileHandles(t *testing.T) {
	src := newFakeSource()
	src.create("vol", mib)
	s := mountSource(t, src, Options{})
	for _, name := range []string{"", "volumes", "volumes/vol/live", "volumes/vol/info.json"} {
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(s.Dir(), name), 0)
		wantErrno(t, "name_to_handle_at of "+name, err, unix.EOPNOTSUPP)
	}
}
