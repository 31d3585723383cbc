package devices

import (
	"context"
	"errors"

	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// Transport attaches volumes to device nodes of one kind.
type Transport interface {
	// Attach starts a device. Its node is usable when Attach returns, but not its partitions. The
	// Attachment has the values that were chosen for options that r left open.
	// protocol.ErrNoTransport: the machine has no such devices.
	Attach(ctx context.Context, r protocol.Attach) (Device, protocol.Attachment, error)
	// Find lists the devices of the store's volumes, and others that are claimed: waiting, never
	// started, or half removed ones, and possibly some that this daemon serves. After an error some
	// may be missing.
	Find(ctx context.Context, c instance.Claims) ([]protocol.Attachment, error)
	// Foreign lists the noted devices that still exist and are not claimed, with the reason why
	// they are left alone.
	Foreign(ctx context.Context, noted []protocol.Attachment, c instance.Claims) []protocol.Attachment
	// Recover takes over a device that Find has found. ErrUnfit: it can never be served;
	// ErrForeign: another daemon serves it; ErrUnanswered: the kernel does not say; after any other
	// error, too, it goes on waiting.
	Recover(ctx context.Context, a protocol.Attachment) (Device, error)
	// Discard removes a device that is not served, if it still exists. protocol.ErrBusy if it is
	// open, unless force is set.
	Discard(ctx context.Context, a protocol.Attachment, force bool) error
	// Close releases what the transport holds for its devices, none of which is left.
	Close() error
}

// Device is a volume attached to a node, served by this process.
type Device interface {
	// ScanPartitions makes the kernel read the partition table, and returns when the partitions are
	// there, bounded by ctx and a limit of its own. The device works after any error.
	ScanPartitions(ctx context.Context) error
	// Resize sets the size of the device in bytes. Its volume has that size already.
	Resize(ctx context.Context, size int64) error
	// Stop removes the device. protocol.ErrBusy if it is open, unless force is set.
	Stop(ctx context.Context, force bool) error
	// Claimed reports whether a file system or another device has opened the device exclusively.
	Claimed() bool
	// Leave ends the service and leaves the device waiting for the next daemon. ErrCannotLeave:
	// this kind cannot wait; ErrUnquiet: it waits as after a crash.
	Leave(ctx context.Context) error
	// Done is closed when the device is no longer served, for whatever reason.
	Done() <-chan struct{}
	// Err is the reason if that was a failure, once Done is closed.
	Err() error
}

// errNoReason is the cause of an end without an error.
var errNoReason = errors.New("its service ended without an error")

// Cause returns why the service of a device has ended.
func Cause(dev Device) error {
	if err := dev.Err(); err != nil {
		return err
	}
	return errNoReason
}
