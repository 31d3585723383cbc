// Package blockdev serves disks as Linux block devices through the kernel's ublk driver.
//
// What is behind a device is a target.Target: a volume of the store, a file, or nothing. Start
// makes /dev/ublkbN for it. The device's queues are served by package uring/queue; what is ublk's
// own is here: the control commands that make, start, stop, quiesce and recover a device, and for
// each queue the io descriptors, the fetch and the commit.
//
//	/dev/ublk-control   ADD_DEV, SET_PARAMS, START_DEV ... DEL_DEV   Start, Stop, Recover
//	/dev/ublkcN         io descriptors (mmap), FETCH_REQ,            ublkQueue
//	                    COMMIT_AND_FETCH_REQ, pread and pwrite
//	/dev/ublkbN         the disk
//
// A request's bytes move without a copy where the driver registers the request's pages in the
// ring's buffer table (UBLK_F_AUTO_BUF_REG). With user copy they go through a buffer of this
// process by pread and pwrite on /dev/ublkcN, which zero-copy devices use too, for reads whose
// bytes have to be checked first; with plain copy the driver copies to and from that buffer by
// itself.
//
// A device outlives its server: when the process dies, the driver keeps the requests, and Recover
// takes them over.
package blockdev
