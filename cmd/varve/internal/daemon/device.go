package daemon

import (
	"context"
	"errors"

	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// transport puts volumes on device nodes of one kind.
type transport interface {
	// Attach starts a device; its node is usable when Attach returns, without its partitions. The answer holds what was chosen
	// for the options that r left open. protocol.ErrNoTransport: not on this machine.
	Attach(ctx context.Context, r protocol.Attach) (device, protocol.Attachment, error)
	// Find lists the devices of the store's volumes, and others that are claimed, whether their I/O waits, or they were
	// never started, or are half removed; those that this daemon serves may be among them. With an error some may be
	// missing.
	Find(ctx context.Context, c instance.Claims) ([]protocol.Attachment, error)
	// Foreign lists which of the noted devices are still there and not claimed, and why they are left alone.
	Foreign(ctx context.Context, noted []protocol.Attachment, c instance.Claims) []protocol.Attachment
	// Recover takes over a device that Find has found. errUnfit: nobody ever will; errForeign: another daemon serves it;
	// after any other error it waits on.
	Recover(ctx context.Context, a protocol.Attachment) (device, error)
	// Discard removes a device that nobody serves, if it is still there; protocol.ErrBusy if it is open, unless force.
	Discard(ctx context.Context, a protocol.Attachment, force bool) error
	// Close lets go of what the transport holds for its devices; none is left.
	Close() error
}

// device is one volume on one node.
type device interface {
	// ScanPartitions has the kernel read the partition table, and returns when the partitions are there; bounded by ctx and
	// a limit of its own. The device works after any error.
	ScanPartitions(ctx context.Context) error
	// Stop removes the device; protocol.ErrBusy if it is open, unless force.
	Stop(ctx context.Context, force bool) error
	// Claimed says whether a file system or another device has the device for itself.
	Claimed() bool
	// Leave ends the service and lets the device wait for the next daemon; errCannotLeave if this kind can't,
	// errUnquiet if it waits as after a crash.
	Leave(ctx context.Context) error
	// Done is closed when the device is no longer served, for whatever reason.
	Done() <-chan struct{}
	// Err is the reason if that was a failure, once Done is closed.
	Err() error
}

var (
	errCannotLeave = errors.New("it can not outlive its daemon")
	errUnquiet     = errors.New("it did not quiesce, and waits as after a crash")
	errUnfit       = errors.New("no device that can be served")
	errForeign     = errors.New("another daemon's")
)

// mounter mounts the store at a directory.
type mounter interface {
	Mount(r protocol.Mount, d devices) (mounted, error)
}

// devices is what a mount has to know of the devices of volumes.
type devices interface {
	// mayWriteLive says why a volume's live file can't be written: it has a device, even if nobody serves that now.
	mayWriteLive(volume string) error
	// deviceOf is the node of a volume's device; empty: none is served.
	deviceOf(volume string) string
}

// mounted is one mount.
type mounted interface {
	// Unmount unmounts; protocol.ErrBusy if it is in use, unless force: I/O of who uses it fails then.
	Unmount(force bool) error
	// Busy says whether something below it is open, as far as that can be told.
	Busy() bool
	// Refresh has the kernel forget what it keeps of a volume's live file.
	Refresh(volume string)
	// Done is closed when the mount is gone, for whatever reason.
	Done() <-chan struct{}
}
