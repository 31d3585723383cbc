// Package blockdev serves disks as Linux block devices through the kernel's ublk driver.
//
// A Target is a disk: the store's volumes, a file (Loop) or nothing (Null). Start makes /dev/ublkbN for it. A device
// has queues; a queue is one goroutine on one locked thread with one ring, and nothing else touches them. A request
// of the queue has a tag, and each tag has a slot here, which either the driver owns or we do:
//
//	/dev/ublkbN          driver                queue                        worker
//	  bio --------> request, its pages
//	                put into the ring's
//	                table at slot tag
//	                  '--- CQE of the fetch --> io descriptor -> Request
//	                                            Handler.Start: plan
//	                                              | Submit          Handoff
//	                                            secondaries ----------------> Handler.Work
//	                  READ_FIXED, WRITE_FIXED   of the plan's pieces, all       |
//	                  between files and pages   in flight together              |
//	                  '--- CQEs --------------> the last is in  <---- mailbox --'
//	                                            Handler.Finish
//	  <---- done -- COMMIT_AND_FETCH <--------- full length, or -errno
//
// That is zero copy (UBLK_F_AUTO_BUF_REG). With user copy the bytes go through a buffer of the daemon by pread and
// pwrite on /dev/ublkcN, which zero-copy devices use too, for the holes of a read; with plain copy the driver
// copies to and from that buffer by itself.
//
// A device outlives its server: when the process dies, the driver keeps the requests, and Recover takes them over.
package blockdev
