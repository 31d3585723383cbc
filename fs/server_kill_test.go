package fs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
	"varve/fs/loopdev"
)

// serveEnv names the directory on which the test program serves a mount, instead of running tests.
const serveEnv = "VARVE_FS_TEST_SERVE"

// serveUntilKilled prints "ready" and serves until its standard input ends or it is killed. It
// leaves a child running, which must not keep the mount alive after this process.
func serveUntilKilled(dir string) {
	src := newFakeSource()
	v := src.create("vol", mib)
	s, err := Mount(dir, src, Options{})
	if err != nil {
		log.Fatal(err)
	}
	child := exec.Command("sleep", "20")
	if err := child.Start(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready", child.Process.Pid)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	switch line {
	case "hang\n":
		v.mu.Lock() // from now on no request is answered
		reading := sync.OnceFunc(func() { fmt.Println("reading") })
		v.reading.Store(&reading)
		fmt.Println("hanging")
	case "unmount\n":
		fmt.Println(s.Unmount())
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := s.ForceUnmount(); err != nil {
		log.Fatal(err)
	}
}

// startPiped starts a program and returns its standard input and output.
func startPiped(t *testing.T, cmd *exec.Cmd) (in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return in, bufio.NewReader(stdout)
}

// startServer starts a program whose serveEnv is set, and waits until it serves.
func startServer(t *testing.T, cmd *exec.Cmd) (in io.WriteCloser, lines *bufio.Reader) {
	t.Helper()
	in, lines = startPiped(t, cmd)
	var child int
	if _, err := fmt.Fscanf(lines, "ready %d\n", &child); err != nil {
		t.Fatalf("the server does not start: %v", err)
	}
	t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
	return in, lines
}

// After its server is killed, a mount returns errors and never hangs, and the next server replaces
// it.
func TestServerKilled(t *testing.T) {
	need.These(t, need.FUSE, need.Root)
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+dir)
	cmd.Stderr = os.Stderr
	in, lines := startServer(t, cmd)
	f, err := os.OpenFile(filepath.Join(dir, "volumes/vol/live"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("alive"), 0); err != nil {
		t.Fatal(err)
	}
	loop := attachLoop(t, f.Name(), loopdev.Options{})
	if _, err := io.WriteString(in, "hang\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := lines.ReadString('\n'); err != nil || line != "hanging\n" {
		t.Fatalf("%q %v", line, err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(make([]byte, 10), 0)
		failed <- err
	}()
	if line, err := lines.ReadString('\n'); err != nil || line != "reading\n" {
		t.Fatalf("%q %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	select {
	case err := <-failed:
		wantErrno(t, "a read in flight", err, unix.ECONNABORTED)
	case <-time.After(time.Minute):
		t.Fatal("a read in flight hangs")
	}
	within(t, time.Minute, "stat on the dead mount", func() {
		_, err := os.Stat(filepath.Join(dir, "volumes"))
		wantErrno(t, "stat on the dead mount", err, unix.ENOTCONN)
	})
	s, err := Mount(dir, newFakeSource(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, filepath.Join(dir, "volumes"))
	if err := loopdev.Detach(t.Context(), loop.Path, false); !errors.Is(err, loopdev.ErrNotAttached) {
		t.Errorf("the dead server's loop device is still there: %v", err)
	}
	if err := errors.Join(s.Unmount(), f.Close()); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); !errors.Is(err, unix.EINVAL) {
		t.Errorf("something was left mounted: %v", err)
	}
}
