package daemon

import "varve/cmd/varve/internal/protocol"

// mounter mounts the store at a directory.
type mounter interface {
	Mount(r protocol.Mount, d volumeDevices) (mounted, error)
}

// volumeDevices is what a mount needs to know about the devices of volumes.
type volumeDevices interface {
	// mayWriteLive returns an error if a volume's live file must not be written, because the volume
	// has a device, served or waiting.
	mayWriteLive(volume string) error
	// deviceOf returns the node of a volume's device, or "" if none is served.
	deviceOf(volume string) string
}

// mounted is one mount.
type mounted interface {
	// Unmount unmounts. protocol.ErrBusy if the mount is in use; with force it is unmounted anyway,
	// and its users' I/O fails.
	Unmount(force bool) error
	// Busy reports whether something below the mount is open, as far as that is known.
	Busy() bool
	// Refresh makes the kernel drop its cached pages of a volume's live file.
	Refresh(volume string)
	// Done is closed when the mount is gone, for whatever reason.
	Done() <-chan struct{}
}
