// Package queue serves a queue of lent buffers: the loop that the block driver (ublk) and, with
// FUSE over io_uring, the file system driver need alike.
//
// Both drivers hand requests to a process through one io_uring: an entry of the ring offers a tag
// to the driver (fetch), its completion says that a request has come, and a later entry answers the
// request and offers the tag again (commit). While the request is here, its pages are lent: they
// are in the ring's table of buffers at the slot of the tag, and a READ_FIXED or WRITE_FIXED moves
// bytes between them and a file without a copy. "Queue" and "tag" are the kernel's words for the
// two (block/blk-mq.c), and those of libublk-rs.
//
//	kernel's client       driver                queue                        worker
//	  bio, read(2) -> request, its pages
//	                put into the ring's
//	                table at slot tag
//	                  '--- CQE of the fetch --> Driver.Describe -> Request
//	                                            Handler.Start: plan
//	                                              | Submit          Handoff
//	                                            secondaries ----------------> Handler.Work
//	                  READ_FIXED, WRITE_FIXED   of the plan's pieces, all       |
//	                  between files and pages   in flight together              |
//	                  '--- CQEs --------------> the last is in  <---- mailbox --'
//	                                            Handler.Finish
//	  <---- done -- commit and fetch <--------- Driver.Commit
//
// A Queue is one goroutine on one locked thread with one ring; nothing else touches them. A Server
// is the queues of one device and the workers that they share. A Driver is what is the kernel
// driver's own: how a tag is fetched, what a request looks like, how it is answered. A Handler is
// what is the disk's or file's own: which pieces of which files a request's bytes are, and what has
// to be done about them.
//
// A disk behind a socket sends its requests one behind the other, and receives the answers in the
// order in which they come. Its part is a Completer, with entries of its own on the ring for the
// answers' headers; its handlers are Senders, which learn when the stream is free for the next
// request, although the kernel still holds the bytes of this one.
//
// # Buffers
//
// Where a request's bytes are, the driver says when it describes the request:
//
//	registered  in the request's own pages, in the ring's table at slot tag: zero copy
//	mapped      in memory of this process, which the driver copies to or from the request by itself
//	copied      in the request's pages, which only the driver's Copier reaches: they go through a bounce buffer
//
// Handlers do not see the difference: they add secondaries and zeroes, or Fill a read from memory.
//
// # Threads
//
// Start and Finish of a handler, and all methods of a Driver, run on the queue's thread, where
// nothing may block: while a queue waits for a lock or a disk, all its requests wait. Work runs on
// a worker goroutine. The request belongs to the method that runs: slotState draws the owners.
package queue
