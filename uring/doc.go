//go:build linux

// Package uring is the only user of io_uring in varve: rings, registered buffers, and fused
// requests, which move a block device's data.
//
// # The data path
//
// A ring is a pair of queues in memory that the process shares with the kernel. The owner fills
// submission entries (SQE), one io_uring_enter(2) submits any number of them, and the kernel posts
// a completion entry (CQE) for each.
//
//	owner                                             kernel
//	GetSQE, Prep ──> [ SQE | SQE | SQE |     ]  ──>   ublk: FETCH, COMMIT_AND_FETCH
//	SubmitAndWait ───────── enter ──────────────>     files: READ_FIXED, WRITE_FIXED
//	Reap         <── [ CQE | CQE |     |     ]  <──   results
//
// With ublk's automatic registration, a fetched block request of tag t lends its own pages to slot
// t of the ring's buffer table. READ_FIXED with that slot reads a file's data into those pages;
// WRITE_FIXED writes it from there. No byte passes through this process. A slot lives as long as
// the request:
//
//	tag t:  fetch ──> request here, slot t lent ──> secondaries ──> commit ──> fetch
//	                  (process owns                 (kernel owns    (kernel
//	                   the request)                  the entries)    clears slot t)
//
// # Fused requests
//
// The request is the primary; each READ_FIXED or WRITE_FIXED on a part of its buffer is a
// secondary: {operation, file, file offset, buffer offset, length}. A secondary may also send or
// receive on a socket, move the owner's own memory, or move nothing (fsync, fallocate). All
// secondaries are in flight together, but for those that are linked behind another. Fused keeps
// their state:
//
//	buffer of the primary, Len bytes
//	0        BufOff          BufOff+Len            Len
//	+--------+------------------+------------------+
//	|  sec 0 |      sec 1       |      sec 2       |
//	+--------+------------------+------------------+
//	    ^            ^                   ^
//	 file A       file B              file A
//
// A commit of any positive result completes the whole block request as success, however much data
// was moved (__ublk_complete_rq in drivers/block/ublk_drv.c, Linux 7.3). So Fused resubmits the
// rest of a short secondary until all of it is transferred, treats a read that returns 0 as an
// error (ErrUnexpectedEOF), and reports completion once, when no secondary is in flight: only then
// may the request be committed, with its full length or with the first error. Each secondary has a
// result of its own too. Links are kept by Fused, which queues the next secondary when the one
// before has been transferred in full: the kernel's IOSQE_IO_LINK would cancel it for a short one.
//
// The owner's loop, for all tags of a queue on one ring:
//
//	for {
//		ring.SubmitAndWait(1, mode)
//		for _, c := range cqes[:ring.Reap(cqes)] {
//			switch u := UserData(c.UserData); u.Kind() {
//			case KindFetch:     // plan tag u.Tag(); fused[tag].Start(ring, primary, secondaries)
//			case KindSecondary: // if fused[tag].Complete(ring, &c) { commit with fused[tag].Err() }
//			case KindPoll:      // another goroutine wakes the owner up
//			}
//		}
//	}
//
// # The submission entry
//
// struct io_uring_sqe. The kernel rejects or obeys stale fields of an entry's previous use, so
// GetSQE zeroes every entry over its full size, and the methods that prepare an operation overwrite
// all 64 bytes again.
//
//	 0      1      2          4            8                 16
//	+------+------+----------+------------+-----------------+
//	|opcode|flags | ioprio   | fd         | off, or cmd_op  |
//	+------+------+----------+------------+-----------------+
//	16                        24           28                32
//	+------------------------+------------+-----------------+
//	| addr: buffer offset    | len        | op flags        |
//	+------------------------+------------+-----------------+
//	32                        40         42         44       48
//	+------------------------+----------+----------+--------+
//	| user data              | buffer   |personal- | file   |
//	|                        | index    |ity       | index  |
//	+------------------------+----------+----------+--------+
//	48                                                       64
//	+-------------------------------------------------------+
//	| command area: Cmd, 16 bytes; BigCmd continues to 128     |
//	+-------------------------------------------------------+
//
// UserData documents the 64 bits of user data.
//
// # Waiting, and Go's scheduler
//
// A goroutine in a blocking system call hands off its scheduler slot (P) and has to acquire one
// afterwards: at depth 1 that halves the IOPS of a queue. A thread that expects its answer in
// microseconds therefore waits in RawSyscall6, which the scheduler does not notice, and keeps the
// slot. The runtime's preemption signal keeps such a wait from starving the program: it is sent to
// a goroutine that has run for 10 ms or delays a stop-the-world. It interrupts the wait, the loop
// around the wait lets the goroutine yield, and the wait is resumed. WaitMode selects:
//
//	WaitBusy     own I/O in flight           RawSyscall6
//	WaitIdle     only fetches in flight      RawSyscall6; after the first signal
//	                                         without a completion, Syscall6
//	WaitHandoff  other goroutines work       Syscall6: hands the slot off at once
//
// This needs GOMAXPROCS of at least the number of queues plus 2, and asynchronous preemption: with
// GODEBUG=asyncpreemptoff=1 every wait is a WaitHandoff.
//
// # Ownership
//
// A ring belongs to one goroutine; with SingleIssuer to one thread, locked. A Fused belongs to its
// ring's goroutine. The caller keeps memory passed to the kernel (Read, Write, RegisterBuffers, a
// plain Primary) reachable and unmoved. Heap and mapped memory do not move; stacks do, which is why
// Address forces its argument off the stack. Nothing allocates after set-up, except error texts.
//
// # Implementations
//
// The ring of the default build, "varve", uses golang.org/x/sys/unix alone. With the build tag
// giouring (and -ldflags=-checklinkname=0) the library of that name is a second implementation. One
// conformance suite tests all implementations of a build, and one benchmark compares them.
package uring
