package blockdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"varve/uring/queue"
)

// What a caller may test for with errors.Is.
var (
	// ErrNoUblk: this kernel has no ublk driver, or it is not loaded.
	ErrNoUblk = errors.New("no /dev/ublk-control: the kernel needs CONFIG_BLK_DEV_UBLK and Linux 6.5 or later; where it is a module, modprobe ublk_drv")
	// ErrPermission: ublk devices need CAP_SYS_ADMIN.
	ErrPermission = errors.New("ublk devices need CAP_SYS_ADMIN")
	// ErrUnsupported: the kernel lacks a feature; see UnsupportedError for its name.
	ErrUnsupported = errors.New("not supported by this kernel")
	// ErrBusy: the block device is open, mounted or held by another device.
	ErrBusy = errors.New("device is in use")
	// ErrServed: another process serves the device, and is not about to end.
	ErrServed = errors.New("another process serves the device")
	// ErrTimeout: the kernel did not answer a command in time.
	ErrTimeout = errors.New("timed out")
	// ErrNoDevice: no ublk device of that number.
	ErrNoDevice = errors.New("no such ublk device")
	// ErrExists: the asked-for device number is taken.
	ErrExists = errors.New("ublk device number is taken")
	// ErrInvalid: options or limits that no device could have.
	ErrInvalid = queue.ErrInvalid
	// ErrMismatch: the device that should be recovered is not of the target's size or block size.
	ErrMismatch = errors.New("device does not match its target")
)

// UnsupportedError names the feature that the kernel lacks.
type UnsupportedError struct {
	Feature string // the kernel's name, such as UBLK_F_AUTO_BUF_REG
	Since   string // the Linux version that has it
	For     string // what needed it
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s needs %s, Linux %s or later: not supported by this kernel", e.For, e.Feature, e.Since)
}

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// OpError is a control command that the kernel refused.
type OpError struct {
	Op  string // the command, such as ADD_DEV
	ID  int    // the device, -1 if none yet
	Err error
}

func (e *OpError) Error() string {
	if e.ID < 0 {
		return fmt.Sprintf("ublk %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("ublk %s of device %d: %v", e.Op, e.ID, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

// opError wraps the errno of a control command in the sentinel for what it means there.
func opError(op string, id int, errno unix.Errno) error {
	var err error = errno
	switch {
	case errno == unix.ENODEV:
		err = fmt.Errorf("%w: %w", ErrNoDevice, errno)
	case errno == unix.EPERM || errno == unix.EACCES:
		err = fmt.Errorf("%w: %w", ErrPermission, errno)
	case errno == unix.EBUSY:
		err = fmt.Errorf("%w: %w", ErrBusy, errno)
	case errno == unix.EEXIST && op == "ADD_DEV":
		err = fmt.Errorf("%w: %w", ErrExists, errno)
	case errno == unix.EOPNOTSUPP:
		err = fmt.Errorf("%w: %w", ErrUnsupported, errno)
	}
	return &OpError{Op: op, ID: id, Err: err}
}
