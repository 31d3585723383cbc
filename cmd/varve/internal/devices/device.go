package devices

import (
	"context"
	"errors"

	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// Transport puts volumes on device nodes of one kind.
type Transport interface {
	// Attach starts a device; its node is usable when Attach returns, without its partitions. The Attachment holds what was
	// chosen for the options that r left open. protocol.ErrNoTransport: the machine has no such devices.
	Attach(ctx context.Context, r protocol.Attach) (Device, protocol.Attachment, error)
	// Find lists the devices of the store's volumes, and others that are claimed, whether their I/O waits, or they were
	// never started, or are half removed; those that this daemon serves may be among them. With an error some may be
	// missing.
	Find(ctx context.Context, c instance.Claims) ([]protocol.Attachment, error)
	// Foreign lists which of the noted devices are still there and not claimed, and why they are left alone.
	Foreign(ctx context.Context, noted []protocol.Attachment, c instance.Claims) []protocol.Attachment
	// Recover takes over a device that Find has found. ErrUnfit: nobody ever will; ErrForeign: another daemon serves it;
	// after any other error it waits on.
	Recover(ctx context.Context, a protocol.Attachment) (Device, error)
	// Discard removes a device that nobody serves, if it is still there; protocol.ErrBusy if it is open, unless force.
	Discard(ctx context.Context, a protocol.Attachment, force bool) error
	// Close lets go of what the transport holds for its devices; none is left.
	Close() error
}

// Device is one volume on one node, which this process serves.
type Device interface {
	// ScanPartitions has the kernel read the partition table, and returns when the partitions are there; bounded by ctx and
	// a limit of its own. The device works after any error.
	ScanPartitions(ctx context.Context) error
	// Resize gives the device another size in bytes, which its volume has already.
	Resize(ctx context.Context, size int64) error
	// Stop removes the device; protocol.ErrBusy if it is open, unless force.
	Stop(ctx context.Context, force bool) error
	// Claimed says whether a file system or another device has the device for itself.
	Claimed() bool
	// Leave ends the service and lets the device wait for the next daemon; ErrCannotLeave if this kind can't,
	// ErrUnquiet if it waits as after a crash.
	Leave(ctx context.Context) error
	// Done is closed when the device is no longer served, for whatever reason.
	Done() <-chan struct{}
	// Err is the reason if that was a failure, once Done is closed.
	Err() error
}

// errNoReason is of a device whose service has ended without an error.
var errNoReason = errors.New("its service ended without an error")

// Cause returns why the service of a device has ended.
func Cause(dev Device) error {
	if err := dev.Err(); err != nil {
		return err
	}
	return errNoReason
}
