// Package disk holds what every file of a store has in common: the error that names damaged bytes,
// reads that survive a failing disk, checksums, and the sizes that the formats are built from. The
// packages of the formats (record, journal, segment, refs, ...) are built on it; it knows none of
// them.
//
// # Errors
//
// An error of a file falls into one of four classes, and the formats treat each in its own way:
//
//	Transient    the machine was out of descriptors or memory: nothing happened, nothing is known of the file
//	no space     ErrNoSpace: the write was refused; what was there before is still there
//	Damaged      the bytes are wrong (ErrCorrupt) or cannot be read (EIO and the like): a matter of these bytes,
//	             not of the whole store
//	any other    what the file holds now is unknown
//
// An error of a sync belongs to the last class whatever its errno: the kernel may have dropped the
// dirty pages, so that the next sync succeeds without them. [SyncError] marks it.
//
// # Sizes
//
// Volumes are addressed in sectors, files of segments in blocks; objects begin at a block. Integers
// are little-endian in every format; each format carries a version and a CRC-32C.
package disk
