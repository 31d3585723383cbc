// Package zone is the state machine of a zoned disk: which writes its zones take, where the next one
// goes, and how many zones are open. It knows no requests and no files.
//
// A zoned disk is divided into zones of one size. Conventional zones, which are the first ones, are
// written anywhere. The others are sequential: a write begins at the zone's write pointer, and moves
// it; only a reset takes it back to the start. A zone append names no place: the disk chooses the
// write pointer, and says where the bytes are. The conditions of a sequential zone, with the names
// and numbers of include/uapi/linux/blkzoned.h (Linux 7.3):
//
//	        write, append              open
//	empty ----------------> implicitly ----> explicitly
//	  ^                      open              open
//	  |                       | ^                |
//	  |           close, or   | | write          | close
//	  |       another opened  v |                |
//	  |                      closed <------------'
//	  |                        |
//	  |  reset                 | finish, or the last byte is written
//	  '----------------- full <'       (from any condition above)
//
// and read-only and offline, which nothing leaves.
//
// Open and closed zones are active. A disk has limits for both (Geometry). Where a zone has to be
// opened and no more may be open, the implicitly open zone that was opened first is closed; if all
// are explicitly open, the write fails with ErrTooManyOpen. There is no such way out for active
// zones: ErrTooManyActive.
//
// # Writes in flight
//
// A write is begun (Set.Write, Set.Append), moves its bytes, and is ended (Set.Done, Set.Abort).
// Two pointers say how far a zone is:
//
//	start         written           next                end
//	| bytes ..... | in flight ..... |                   |
//
// next is where the next write goes; written is the end of all that is done, which is the write
// pointer of reports, and what may be read. A write that fails gives its place back once nothing of
// the zone is in flight any more.
//
// # Words
//
// What has to outlive the process is 64 bits for each zone (Word), which the caller provides the
// memory for. Each change is one store, so that a process that is killed leaves no half of one.
//
// After the death of its server the kernel sends again what was not answered, and a write that was
// done already would miss the pointer that it had moved. So the word has the length of the write that
// moved it, and the first write to a zone after New may be that write once more.
package zone
