package daemon

import "varve/cmd/varve/internal/protocol"

// mounter mounts the store at a directory.
type mounter interface {
	Mount(r protocol.Mount, d volumeDevices) (mounted, error)
}

// volumeDevices is what a mount has to know of the devices of volumes.
type volumeDevices interface {
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
