//go:build linux

// Package uring is varve's door to io_uring: rings, registered buffers, and
// fused requests, the form in which a block device's data moves.
//
// # The data path
//
// A ring is two queues in memory that the process shares with the kernel. The
// owner fills submission entries (SQE), one io_uring_enter(2) hands over any
// number of them, and the kernel answers each with a completion entry (CQE).
//
//	owner                                             kernel
//	GetSQE, Prep ──> [ SQE | SQE | SQE |     ]  ──>   ublk: FETCH, COMMIT_AND_FETCH
//	SubmitAndWait ───────── enter ──────────────>     files: READ_FIXED, WRITE_FIXED
//	Reap         <── [ CQE | CQE |     |     ]  <──   results
//
// With ublk's automatic registration, a fetched block request of tag t lends its
// own pages to slot t of the ring's buffer table. READ_FIXED with that slot
// makes a file's data arrive in those pages; WRITE_FIXED takes it from there.
// No byte passes through this process. A slot's lifetime is that of the request:
//
//	tag t:  fetch ──> request here, slot t lent ──> secondaries ──> commit ──> fetch
//	                  (we own the request)          (kernel owns    (slot t is
//	                                                 our entries)    taken back)
//
// # Fused requests
//
// The request is the primary; each READ_FIXED or WRITE_FIXED on a part of its
// buffer is a secondary: {file, file offset, buffer offset, length, direction}.
// All secondaries are in flight together. Fused keeps their state:
//
//	buffer of the primary, Len bytes
//	0        BufOff          BufOff+Len            Len
//	+--------+------------------+------------------+
//	|  sec 0 |      sec 1       |      sec 2       |
//	+--------+------------------+------------------+
//	    ^            ^                   ^
//	 file A       file B              file A
//
// A commit of any positive result completes the whole block request as success,
// whatever was moved (__ublk_complete_rq in drivers/block/ublk_drv.c, Linux 7.3).
// So Fused sends the rest of a short secondary again until all of it is there,
// takes a read of nothing for an error (ErrUnexpectedEOF) and never for an end,
// and says done once, when no secondary is in flight: only then may the request
// be committed, with its full length or with the first error.
//
// The owner's loop, for all tags of a queue on one ring:
//
//	for {
//		ring.SubmitAndWait(1, mode)
//		for _, c := range cqes[:ring.Reap(cqes)] {
//			switch u := UserData(c.UserData); u.Kind() {
//			case KindFetch:     // plan tag u.Tag(); fused[tag].Start(ring, primary, secondaries)
//			case KindSecondary: // if fused[tag].Complete(ring, u, c.Res) { commit with fused[tag].Err() }
//			case KindPoll:      // another goroutine has news
//			}
//		}
//	}
//
// # The submission entry
//
// struct io_uring_sqe. The kernel rejects, or obeys, what an entry's last use
// left behind, so every entry is zeroed over its full size when it is handed
// out, and the Prep methods overwrite all 64 bytes again.
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
//	| command area: Cmd, 16 bytes; BigCmd goes on to 128     |
//	+-------------------------------------------------------+
//
// UserData says what the 64 bits of user data mean.
//
// # Waiting, and Go's scheduler
//
// A goroutine in a blocking system call gives its scheduler slot (P) away and
// has to get one again: at depth 1 that halves the IOPS of a queue. A thread
// that expects its answer in microseconds therefore waits in RawSyscall6, of
// which the scheduler knows nothing, and the slot stays. What keeps that from
// starving the program is the runtime's preemption signal, sent to a goroutine
// that has run for 10 ms or is in the way of a stop-the-world: it interrupts the
// wait, the loop around it is a point where the goroutine yields, and the wait
// goes on. WaitMode picks:
//
//	WaitBusy     own I/O in flight           RawSyscall6
//	WaitIdle     fetches alone in flight     RawSyscall6; after the first signal
//	                                         without a completion, Syscall6
//	WaitHandoff  other goroutines work       Syscall6
//
// This needs GOMAXPROCS of at least the number of queues plus 2, and asynchronous
// preemption: with GODEBUG=asyncpreemptoff=1 every wait is a WaitHandoff.
//
// # Ownership
//
// A ring belongs to one goroutine; with SingleIssuer to one thread, locked. A
// Fused belongs to its ring's goroutine. Memory given to the kernel (Read, Write,
// RegisterBuffers, a plain Primary) is kept reachable and unmoved by whoever
// gave it; heap and mapped memory do not move, stacks do, which is why Address
// forces its argument off the stack. Nothing allocates after set-up, but for the
// text of an error.
//
// # Implementations
//
// The ring of the default build, "varve", uses golang.org/x/sys/unix alone. With
// the build tag giouring (and -ldflags=-checklinkname=0) the library of that name
// is a second one. One conformance suite holds every implementation of a build
// to the same behaviour, and one benchmark shows them side by side.
package uring
