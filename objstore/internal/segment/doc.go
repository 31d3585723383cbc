// Package segment keeps the data of a store, in append-only files that list the objects in them.
//
// A segment ([File]) is open while it is appended to, by the writes of a volume or by settling. Its
// bytes are aligned to blocks of 4096. Some become objects (a chunk where it was first written, a
// copied chunk, a tree node, a root). The rest is dead once the writes have settled, and is punched
// out of the file.
//
//	Create ──> open ── Seal ──> sealed: immutable
//	             │ nothing in it  │ Vacate: what lives was copied to other segments
//	             └────────────> removed
//
// # The object list
//
// A segment lists its own objects. While it is open, the list is its object log (ID.dir, a log of
// package record): [File.Add] appends objects once their bytes are durable. When it is sealed, the
// footer becomes the list, and the object log is removed. Only this list is authoritative: the
// index is a hint, and is checked against it.
//
//	   0    header, one block
//	4096    data
//	cap     footer, once sealed: the objects in order of block, then the trailer
//
// The footer is at the segment's capacity, beyond all space that was ever handed out, where a write
// that a killed process left in flight cannot reach it. Between the end of the data and the footer
// the file is a hole.
//
// If its list cannot be read, the segment is damaged ([File.Damage]). Its objects are then found by
// their content, each at the beginning of a block, and no space of the segment is freed. Opening
// repairs what it can: [Open] reconciles object log, footer and header if a crash or damage has
// left them in contradiction (see reconcile.go).
//
// # Formats
//
// [Header], [Object] and the trailer ([EncodeFooter]) are drawn where they are encoded. The payload
// of a frame of the object log is a sequence of encoded objects.
//
// # Other terms
//
//	Location     segment and block of an object
//	Table        the segments of a store by ID, read without a lock
//	FooterCache  footers of sealed segments in memory
package segment
