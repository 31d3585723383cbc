// Package merkle is the tree of hashes over an image: what an object of the store is, how it is
// named, and how the objects of one image hang together. It is pure: bytes in, bytes out; where
// objects lie is not its business.
//
// # Objects
//
// An object is a chunk of the image, a tree node, or a root. Its name is its [Hash], and its [Kind]
// is part of what is hashed, so that no chunk that a user writes can pass for a node.
//
//	Root      how to read the tree: size of the image, chunk size, depth, hash of the top node
//	Node      up to 256 hashes: of nodes one level below, or, in a leaf (level 1), of chunks
//	chunk     bytes of the image, 4 to 64 KiB, the same size in the whole store; not encoded
//
// # The tree
//
// The tree is a radix tree of fixed fan-out over chunk numbers. Its depth follows from the size of
// the image and the chunk size alone ([Depth]):
//
//	Root ── top node, level 2 ─┬─ leaf 0 ─┬─ chunk 0
//	                           │          ├─ chunk 1
//	                           │          ┆
//	                           │          └─ chunk 255
//	                           ├─ zero hash: chunks 256 to 511 are zeroes
//	                           └─ leaf 2 ── ...
//
// The zero Hash stands for a chunk, or a whole subtree, of zeroes, which is stored nowhere. Equal
// content of equal size therefore has one encoding and one root hash, however it was written: two
// images are equal if their roots are, and two subtrees of two trees differ only below hashes that
// differ.
//
// The encodings are drawn at [Root] and [Node]. Integers are little-endian.
package merkle
