// Package object finds and reads the objects of a store: chunks, tree nodes and roots, by hash.
//
//	hash ── index: a hint ──> Location ── Validate: the segment's object list ──> the object
//	  │                                                                             ▲
//	  └── not in the index ── search of the object lists ───────────────────────────┤
//	                      └── damaged segments, by content (Salvage) ───────────────┘
//
// The index is never relied on. What it answers is validated against the object list of the
// segment, and what it does not know may be in any segment: [Reader.LocateAll] looks through their
// lists, for all wanted objects at once, and remembers what is nowhere. What is read is hashed
// before it is used.
//
// # Damage
//
// A disk may return other bytes than were written, or none. What is known of it is kept by
// location, in memory:
//
//	suspect       the bytes are damaged, or cannot be read: nothing new is pointed there, and what is written again is stored
//	              anew; readers still get what the disk returns
//	quarantined   a suspect whose bytes are wrong for certain: it is not read any more, and the object is looked for elsewhere
//	cleared       read again, and right
//	verified      read not long ago, and right: a duplicate may be pointed there without reading it once more
//
// The repair generation ([Quarantine.Generation]) grows whenever something that was lost may have
// come back: an object that was stored anew, or a location that was cleared. What was concluded
// from a loss is concluded again when it has grown.
//
// Readers and settling share a Reader; its methods are safe for concurrent use, and hold no lock
// over I/O. Each of them pins the segments that it looks at. A caller that reads at a location later
// holds a pin of its own, from before the look-up on.
package object
