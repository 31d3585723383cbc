package blockdev

import "varve/uring/queue"

// Target is the disk behind a device: where its requests' bytes are.
type Target interface {
	// Limits describe the disk. They do not change while it is attached, the size excepted (Device.Resize).
	Limits() Limits
	// NewHandler makes what serves one tag of one queue. Each handler serves one request at a time, and may keep
	// what it needs from one call to the next.
	NewHandler() queue.Handler
}

// FileTarget is a Target all of whose secondaries go to the same few files. They are registered with the rings, which
// saves looking them up for each.
type FileTarget interface {
	Target
	// Files are open as long as the device is served.
	Files() []int
}
