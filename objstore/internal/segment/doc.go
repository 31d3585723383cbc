// Package segment keeps the data of a store: files that are only ever appended to, and that list the objects in them.
//
// A segment ([File]) is open while somebody appends to it: the writes of a volume, or what settling copies. Its bytes are
// aligned to blocks of 4096. Some of them become objects (a chunk where it was first written, a copied chunk, a tree node,
// a root); the rest is dead once what was written has settled, and is punched out of the file.
//
//	Create ──> open ── Seal ──> sealed: immutable
//	             │ nothing in it  │ Vacate: what lives was copied to other segments
//	             └────────────> removed
//
// # The object list
//
// Which objects a segment has is said by the segment itself, in one of two ways. While it is open, by its object log
// (ID.dir, a log of package record): [File.Add] appends objects to it once their bytes are durable. Once it is sealed, by
// the footer, and the object log is removed. Nothing else knows for certain: the index is a hint, and is checked against
// this list.
//
//	   0    header, one block
//	4096    data
//	cap     footer, once sealed: the objects in order of block, then the trailer
//
// The footer lies at the segment's capacity, behind all space that was ever handed out: a write that a killed process left
// in flight cannot reach it. Between the end of the data and the footer the file is a hole.
//
// A list that cannot be read makes the segment damaged ([File.Damage]). Its objects are then found by their content, each
// at the beginning of a block, and nothing of the segment is given back. Opening repairs what it can: [Open] reconciles
// object log, footer and header where a crash, or damage, has left them in contradiction (see reconcile.go).
//
// # Formats
//
// [Header], [Object] and the trailer ([EncodeFooter]) are drawn where they are encoded. A payload of the object log is a
// number of encoded objects.
//
// # Other terms
//
//	Location     segment and block of an object: where it lies
//	Table        the segments of a store by ID, read without a lock
//	FooterCache  footers of sealed segments in memory
package segment
