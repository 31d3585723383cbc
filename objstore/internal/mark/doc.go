// Package mark finds out which objects of a store are alive: those that can be reached from a root.
//
//	roots ── Walker: every tree node ──> hashes of nodes and chunks ──> Filter
//	                                                                          │
//	                    the objects that a segment lists ── Has ──────────────┘── false: dead
//
// A [Filter] is a Bloom filter. It takes a byte for each object, where a set of hashes would take
// more than 32, and needs no look-up of where an object lies. Its errors are on the safe side: of
// the dead objects some 3 % pass for alive. Each cycle of collection draws another seed, so that
// these are others each time, and so that chunks which always pass cannot be made on purpose.
//
// Where a filter for all objects would take more memory than is allowed, several passes are made,
// each with a filter for one part of all hashes. To a filter of one part, the hashes of the other
// parts are alive.
//
// A [Walker] remembers the tree nodes that it has visited in memory that is bounded too, exactly as
// far as that goes: a node that was taken for visited by mistake would cost what is below it.
//
// Settling continues while trees are walked. It adds what it refers to, to the same filter, before
// it looks whether the store has it (package objstore, collector).
package mark
