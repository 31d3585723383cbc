package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"varve/fs/loopdev"
)

const (
	fsName = "varve"
	fsType = "fuse." + fsName
)

// mount mounts s.dir and returns the name by which go-fuse finds the connection.
//
// With CAP_SYS_ADMIN the mount is made here. go-fuse could do so too, but it opens /dev/fuse
// without O_CLOEXEC: a program started by the daemon would keep the connection open, and if the
// daemon died, every user of the mount would hang instead of getting an error.
func (s *Server) mount(o Options) (string, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "", ErrNoFUSE
	case err != nil:
		return "", fmt.Errorf("open /dev/fuse: %w: %w", ErrPermission, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.dir, &st); err != nil {
		_ = unix.Close(fd)
		return "", err
	}
	data := []string{
		fmt.Sprintf("fd=%d", fd),
		fmt.Sprintf("rootmode=%o", st.Mode&unix.S_IFMT),
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()),
		fmt.Sprintf("max_read=%d", maxRequest),
		"default_permissions",
	}
	if o.AllowOther {
		data = append(data, "allow_other")
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	err = unix.Mount(fsName, s.dir, fsType, flags, strings.Join(data, ","))
	if err == nil {
		s.direct = true
		return fmt.Sprintf("/dev/fd/%d", fd), nil // go-fuse owns the descriptor from here on
	}
	_ = unix.Close(fd)
	if !errors.Is(err, unix.EPERM) {
		return "", err
	}
	if os.Geteuid() == 0 || fusermount() == "" {
		return "", fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return s.dir, nil // go-fuse calls fusermount3
}

// fusermount returns the path of the program that mounts and unmounts for ordinary users, or "" if
// it is missing.
func fusermount() string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/bin") {
		for _, name := range []string{"fusermount3", "fusermount"} {
			if path := filepath.Join(dir, name); unix.Access(path, unix.X_OK) == nil {
				return path
			}
		}
	}
	return ""
}

// unmount is umount2(2), or fusermount3 for a user without the privilege for it. fusermount3 knows
// MNT_DETACH but not MNT_FORCE.
func unmount(dir string, flags int) error {
	err := unix.Unmount(dir, flags)
	program := fusermount()
	if !errors.Is(err, unix.EPERM) || program == "" {
		return err
	}
	args := []string{"-u", "--", dir}
	if flags&unix.MNT_DETACH != 0 {
		args = []string{"-u", "-z", "--", dir}
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	switch {
	case err == nil:
		return nil
	case strings.Contains(strings.ToLower(text), unix.EBUSY.Error()):
		return unix.EBUSY
	}
	return fmt.Errorf("%s: %w: %s", program, err, text)
}

// refusePoll makes the kernel learn that files of this mount cannot be polled. Otherwise the first
// os.Open in this process sends the FUSE request from inside the runtime's own epoll_ctl and may
// wait for itself. go-fuse serves this name, and polls it for mounts that it made itself.
func refusePoll(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the file that refuses poll: %w", err)
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}, 0)
	return unix.Close(fd)
}

// unmountIdle retries for a moment while the mount is busy: a file's RELEASE may reach the server
// after close(2) has returned.
func unmountIdle(dir string) error {
	var err error
	for wait := 5 * time.Millisecond; wait < 400*time.Millisecond; wait *= 2 {
		err = unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(wait)
	}
	return ErrBusy
}

// unmountForced aborts the connection (MNT_FORCE: fs/fuse/inode.c, fuse_umount_begin) and detaches
// the mount.
func unmountForced(dir string) error {
	return unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
}

// abortConnection aborts a connection through the fusectl file system, which names a connection by
// the minor number of its st_dev.
func abortConnection(device uint64) error {
	abort := fmt.Sprintf("%d/abort", unix.Minor(device))
	err := os.WriteFile(filepath.Join("/sys/fs/fuse/connections", abort), []byte("1"), 0)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// fusectl is not mounted on this machine.
	dir, err := os.MkdirTemp("", "varve-fusectl-")
	if err != nil {
		return err
	}
	if err := unix.Mount("fusectl", dir, "fusectl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return errors.Join(fmt.Errorf("mount fusectl: %w", err), os.Remove(dir))
	}
	err = os.WriteFile(filepath.Join(dir, abort), []byte("1"), 0)
	return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
}

// clearDeadMount removes the mounts of dead servers from dir, and the loop devices over their
// files, which nothing can revive. It returns ErrMounted if the server of a mount is alive.
func clearDeadMount(dir string, log *slog.Logger) error {
	for {
		mounted, err := varveMountedAt(dir)
		if err != nil || !mounted {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); !errors.Is(err, unix.ENOTCONN) {
			return ErrMounted
		}
		detachLoops(loopsBelow(dir, log), log)
		if err := RemoveDead(dir); err != nil {
			return err
		}
	}
}

// RemoveDead detaches a mount whose server is dead.
func RemoveDead(dir string) error {
	if err := unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("remove the mount of a dead server: %w", err)
	}
	return nil
}

// loopsBelow returns the loop devices over a mount's files. Call it before unmounting: the devices
// are found by path.
func loopsBelow(dir string, log *slog.Logger) []loopdev.Device {
	found, err := loopdev.Below(dir)
	if err != nil {
		log.Warn("cannot list the loop devices over the mount", "mount", dir, "error", err)
	}
	return found
}

// detachLoops detaches loop devices whose files are dead. Programs that still have one open get I/O
// errors.
func detachLoops(devices []loopdev.Device, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, d := range devices {
		err := loopdev.Detach(ctx, d.Path, true)
		log.Warn("loop device lost the mount under it", "device", d.Path, "file", d.File, "detach", err)
	}
}

// varveMountedAt reports whether the topmost mount at dir is of type fuse.varve.
func varveMountedAt(dir string) (bool, error) {
	list, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return false, fmt.Errorf("read the mount table: %w", err)
	}
	return len(list) > 0 && list[len(list)-1].FSType == fsType, nil
}
