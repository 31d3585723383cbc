// Package objstore is the store: volumes whose bytes are in append-only segments, addressed by
// content once they have settled. It knows no rings, devices or mounts: it returns where a range of
// bytes is, and the caller moves the bytes.
//
//	write   Reserve: a slot in the volume's append segment     the caller writes there
//	        Commit:  live map + journal record              visible, and survives the death of the process
//	flush   Flush:   sync segments, then the journal        survives a power cut
//	read    Plan:    live map, over older layers, over      pieces {descriptor, offset, length} or holes;
//	                 the leaves of the settled tree         Release when they have been read
//	settle  freeze a layer; hash its chunks; known: drop, whole in the append segment: adopt in place, else copy;
//	        new tree nodes; new root in refs; the layer, its journal and its dead room go
//
// Terms:
//
//	volume    a disk, whose size changes only by ResizeVolume
//	layer     what was written to a volume between two freezes: a map of extents, and a journal. The
//	          newest layer takes the writes; the older ones are frozen and wait to settle
//	extent    a run of sectors (512 bytes) and where they are, or a hole (zeroes)
//	chunk     the unit of settling, 4 to 64 KiB, fixed for a store
//	object    a chunk, a tree node or a root, named by its hash
//	segment   a file of data; its footer, or until it is sealed its object log, lists the objects in it
//	location  segment and block (4096 bytes) of an object
//	root      the hash of a settled state of a volume: equal content and size, equal root
//	snapshot  a name for a root; as long as that has not settled, for the layers up to a generation
//	refs      the log of names: volumes, snapshots, and their roots
//	index     hash to location, in badger; a hint that is validated, and can be rebuilt from the segments
//	tail      the data of a volume that has not settled yet
//
// The files of a store; each format is drawn where it is encoded:
//
//	superblock, superblock.copy   internal/refs
//	lock                          held by the process that has the store open
//	refs/log                      internal/refs, in frames of internal/record
//	journal/VOLUME-GENERATION     internal/journal
//	segments/ID.seg, ID.dir       internal/segment; the object log in frames of internal/record
//	index/                        badger
//	maintenance, maintenance.copy internal/maintenance
//
// Roots and tree nodes, which are objects in segments, are drawn in internal/merkle.
package objstore
