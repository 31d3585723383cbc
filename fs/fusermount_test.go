package fs

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"varve/fs/internal/need"
)

// asUser returns a command that runs as a user who may not call umount2(2).
func asUser(t *testing.T, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	return cmd
}

// A mount that fusermount3 made for a user ends as one of root's does: not while in use, at once by
// force, and at the next mount if its server was killed.
func TestFusermount(t *testing.T) {
	need.These(t, need.FUSE, need.UserFUSE, need.Root, need.Program("fusermount3"))
	if err := unix.Mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, ""); err == nil {
		t.Cleanup(func() { _ = unix.Unmount("/sys/fs/fuse/connections", unix.MNT_DETACH) })
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	program, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, how := range []string{"killed", "forced"} {
		server := asUser(t, "/proc/self/fd/3")
		server.ExtraFiles = []*os.File{program}
		server.Env = append(os.Environ(), serveEnv+"="+dir)
		in, lines := startServer(t, server)
		if how == "killed" {
			_ = server.Process.Kill()
			_ = server.Wait() // "signal: killed"
			continue
		}
		user := asUser(t, "sh", "-c", "exec 3<"+filepath.Join(dir, "volumes/vol/live")+"; echo open; read x; cat <&3 >/dev/null")
		user.Stderr = nil
		userIn, userOut := startPiped(t, user)
		if line, err := userOut.ReadString('\n'); err != nil || line != "open\n" {
			t.Fatalf("the user says %q, %v", line, err)
		}
		if _, err := io.WriteString(in, "unmount\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, ErrBusy.Error()) {
			t.Errorf("Unmount of a mount in use: %q, %v", line, err)
		}
		_ = in.Close()
		within(t, stopTimeout/2, "an unmount by force", func() {
			if err := server.Wait(); err != nil {
				t.Errorf("the server that unmounts by force: %v", err)
			}
		})
		_ = userIn.Close()
		if err := user.Wait(); err == nil {
			t.Error("an open file can still be read")
		}
	}
	if mounted, err := varveMountedAt(dir); err != nil || mounted {
		t.Errorf("%s is still mounted (%v)", dir, err)
	}
}
