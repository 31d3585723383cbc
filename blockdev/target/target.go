// Package target says what a disk behind a block device is. Its subpackages are the disks:
//
//	null    answers at once and moves nothing: the yardstick
//	loop    a file or block device, byte for byte
//	stripe  several files or block devices, in turns
//	mirror  several files or block devices, in full on each
//	nbd     an export of an NBD server
//	qcow2   the disk in a qcow2 image, over its backing files
//	zoned   a disk of zones, each written from its start on: in a file, or one that moves nothing
//	volume  a volume of the object store
//
// A Target makes its part of each queue of the device, and the part makes the handlers of the
// queue's tags (uring/queue.Part, uring/queue.Handler). What a target keeps for itself is shared by
// the threads of all queues; what a part keeps belongs to the thread of its queue; what a handler
// keeps belongs to the request that it serves.
//
// Package targettest holds every target to the same behaviour.
package target

import "varve/uring/queue"

// Target is the disk behind a device: where its requests' bytes are.
type Target interface {
	// Limits describe the disk. They do not change while it is attached, the size excepted
	// (blockdev.Device.Resize).
	Limits() Limits
	// NewPart makes the target's part of a queue, on the queue's thread. The queue closes it.
	NewPart(q *queue.Queue) (queue.Part, error)
}

// Resizer is a Target that may get another size while it is attached, by a command that its server
// did not give: ublk's UPDATE_SIZE.
type Resizer interface {
	Target
	// Fits returns an error unless the target can be a disk of size bytes. It is called on the
	// thread of a queue, and does not block.
	Fits(size int64) error
}
