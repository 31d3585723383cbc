// Package object finds and reads the objects of a store: chunks, tree nodes and roots, by hash.
//
//	hash ── index: a hint ──> Location ── Validate: the segment's object list ──> the object
//	  │                                                                             ▲
//	  └── not in the index ── search of the object lists ───────────────────────────┤
//	                      └── damaged segments, by content (Salvage) ───────────────┘
//
// The index is never relied on. Its answers are validated against the object list of the segment.
// An object that it does not know may be in any segment: [Reader.LocateAll] searches their lists,
// for all wanted objects at once, and remembers objects that are in none. What is read is hashed
// before it is used.
//
// # Damage
//
// A disk may return other bytes than were written, or none. The state of a location is kept in
// memory:
//
//	suspect       the bytes are damaged, or cannot be read: no new reference is made to them, and
//	              equal data is stored again; readers still get what the disk returns
//	quarantined   a suspect with certainly wrong bytes: not read; the object is sought elsewhere
//	cleared       read again, and right
//	verified      read recently, and right: a duplicate may refer to it without another read
//
// The repair generation ([Quarantine.Generation]) grows whenever something lost may have come back:
// an object was stored again, or a location was cleared. Conclusions from a loss are drawn again
// after that.
//
// Readers and settling share a Reader; its methods are safe for concurrent use, and hold no lock
// over I/O. Each of them pins the segments that it looks at. A caller that reads at a location
// later holds a pin of its own, from before the look-up on.
package object
