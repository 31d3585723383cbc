// Package edges counts the references between the objects of a store, to tell what deleting some of
// its roots would free.
//
// # The graph
//
// The trees of all images that have a name form one directed acyclic graph: equal subtrees are one
// node, and equal chunks are one chunk. An edge is one reference: a slot of a node that names a
// child, a root object that names its top node, or a name that names a root object.
//
//	names     vol       vol@a     clone
//	            \         |        /
//	roots        R2       R1 ─────┘          R1 has two names, and counts as one root
//	             │        │
//	nodes        N2       N1                 N1 and N2 share a leaf: it has two edges
//	            /  \     /  \
//	leaves    L3    └ L1 ┘   L2
//	         / | \   / | \   / \
//	chunks  c4 c1 c5  ...                    a chunk in two leaves has two edges
//
// An object is live while it has an edge. Taking a root away takes away the edges of that root;
// what is left without an edge loses its own edges in turn. So a deletion, or the trial of one,
// visits what it frees and the border of that, however large the rest is. Adding a root visits what
// the graph has not seen before.
//
// # Memory
//
// A [Graph] is in memory alone and is made again by a walk of all roots: 8 KiB read for each leaf
// of 256 chunks. A tree node takes about 60 bytes. A chunk takes 12 bytes on average: 8 of a keyed
// hash of its hash and one of its count, at a load of four fifths at most, and there are 67 million
// in a TiB of 16 KiB chunks. So the chunks' part has a limit. At the limit the graph drops every
// other chunk, by a bit of the keyed hash, and each of those that are left stands for two; then for
// four, and so on. Everything that a graph says is exact until then, and an unbiased estimate
// afterwards ([Graph.Exact]). A trial takes memory for the chunks that it meets more than once, within
// the same limit and by the same means.
//
// Sizes are what objects take on disk: whole blocks ([Slot]), and not their lengths.
package edges
