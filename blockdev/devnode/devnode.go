// Package devnode ensures that the path of a device leads to that device.
//
// A path like /dev/ublkb0 is only a name: the node may not exist yet (udev), may never be made (a
// container whose /dev is no devtmpfs), and something else may be there: a regular file made by
// mistake, which keeps in memory what is written to it, or a stale node with the number of another
// device. So before a path is returned or opened, kind and number are compared with the kernel's.
package devnode

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What a caller may test for with errors.Is.
var (
	// ErrNotDevice: something else is where the node should be.
	ErrNotDevice = errors.New("not the device")
	// ErrNoNode: nothing is there, and nothing can be made there.
	ErrNoNode = errors.New("no node of the device")
)

// Node is a device and where its node belongs.
type Node struct {
	Path         string
	Char         bool // else a block device
	Major, Minor uint32
}

// kind is what a node is called, and the letter that mknod(1) and ls(1) have for it.
func (n *Node) kind() (name, letter string) {
	if n.Char {
		return "character device", "c"
	}
	return "block device", "b"
}

func (n *Node) String() string {
	name, _ := n.kind()
	return fmt.Sprintf("%s %d:%d", name, n.Major, n.Minor)
}

// Check compares what is at the path, symbolic links followed, with the device. ErrNotDevice, with
// what is there, or os.ErrNotExist.
func (n *Node) Check() error {
	var st unix.Stat_t
	if err := restart(func() error { return unix.Stat(n.Path, &st) }); err != nil {
		return &iofs.PathError{Op: "stat", Path: n.Path, Err: err}
	}
	return n.compare(&st)
}

func (n *Node) compare(st *unix.Stat_t) error {
	there := describe(st)
	if there == n.String() {
		return nil
	}
	return fmt.Errorf("%s is a %s, %w: that is %v; remove what is there", n.Path, there, ErrNotDevice, n)
}

// describe says what a file is; of a device with its number.
func describe(st *unix.Stat_t) string {
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return (&Node{Major: major, Minor: minor}).String()
	case unix.S_IFCHR:
		return (&Node{Char: true, Major: major, Minor: minor}).String()
	case unix.S_IFREG:
		return fmt.Sprintf("file of %d bytes", st.Size)
	case unix.S_IFDIR:
		return "directory"
	}
	return "file of another kind"
}

// patience is how long to wait for this machine to make a node: devtmpfs makes it at once, udev may
// take longer.
const patience = 2 * time.Second

// Await returns when the node exists. If the machine does not make it, Await does, accessible to
// root only; then made is true, and the node must be removed with the device. It replaces a stale
// node, left over from a device that is gone. Errors are ErrNotDevice, ErrNoNode and that of ctx.
func (n *Node) Await(ctx context.Context) (made bool, err error) {
	return n.await(ctx, patience)
}

func (n *Node) await(ctx context.Context, patience time.Duration) (made bool, err error) {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := n.Check()
		if errors.Is(err, ErrNotDevice) && n.leftOver() {
			err = errors.Join(os.Remove(n.Path), iofs.ErrNotExist)
		}
		if !errors.Is(err, iofs.ErrNotExist) {
			return made, err
		}
		if time.Now().After(deadline) {
			if made, err = n.make(); err != nil {
				return false, err
			}
			continue // others may have been faster, and with something else
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// leftOver reports whether what is at the path is the node of a device that the kernel does not have
// any more.
func (n *Node) leftOver() bool {
	var st unix.Stat_t
	if err := restart(func() error { return unix.Lstat(n.Path, &st) }); err != nil {
		return false
	}
	kind := map[uint32]string{unix.S_IFBLK: "block", unix.S_IFCHR: "char"}[st.Mode&unix.S_IFMT]
	if kind == "" || unix.Access(sysDev+kind, unix.F_OK) != nil {
		return false
	}
	err := unix.Access(fmt.Sprintf("%s%s/%d:%d", sysDev, kind, unix.Major(st.Rdev), unix.Minor(st.Rdev)), unix.F_OK)
	return errors.Is(err, unix.ENOENT)
}

// sysDev has a directory for each kind of device, with an entry for each number.
const sysDev = "/sys/dev/"

func (n *Node) make() (made bool, err error) {
	mode := uint32(unix.S_IFBLK)
	if n.Char {
		mode = unix.S_IFCHR
	}
	err = unix.Mknod(n.Path, mode|0o600, int(unix.Mkdev(n.Major, n.Minor)))
	if err == nil || errors.Is(err, unix.EEXIST) {
		return err == nil, nil
	}
	_, letter := n.kind()
	return false, fmt.Errorf("%w: nothing has made %s, %v, and it can't be made here: %w; make it with mknod -m 600 %s %s %d %d",
		ErrNoNode, n.Path, n, err, n.Path, letter, n.Major, n.Minor)
}

// Open opens the node, and nothing else: what is there is looked at before, and what was opened
// afterwards.
func (n *Node) Open(flags int) (int, error) {
	if err := n.Check(); err != nil {
		return -1, err
	}
	fd := -1
	err := restart(func() (err error) {
		fd, err = unix.Open(n.Path, flags|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: n.Path, Err: err}
	}
	var st unix.Stat_t
	if err = restart(func() error { return unix.Fstat(fd, &st) }); err == nil {
		err = n.compare(&st)
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was done with it
		return -1, err
	}
	return fd, nil
}

// Remove removes a node that Await has made, if it is that one still.
func (n *Node) Remove() error {
	err := n.Check()
	if err == nil {
		err = os.Remove(n.Path)
	}
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, ErrNotDevice) {
		return nil
	}
	return err
}

// restart repeats a system call that a signal has interrupted.
func restart(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
