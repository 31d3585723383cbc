// Package lockorder lists the locks of the store, says what each protects, and in which order they
// are taken; in a build with the tag lockorder, it panics when that order is broken.
//
// A goroutine that holds a lock may take those below it in the list, and no other. No goroutine
// holds two locks of one line, such as those of two volumes. TryLock, which does not wait, may be
// used against the order.
//
//	lock                        protects
//
//	collector.running           that one cycle of collection runs at a time
//	Store.checking              that one Check runs at a time
//	accounting.mu               the counts of references between objects
//	volume.settleMu             layers: that two do not settle, drop or replay them at once
//	volume.rmw                  a sector that is read, changed and written back
//	catalog.logMu               the refs log, and decisions about names
//	ballast.mu                  the file of the ballast
//	superblock.mu               the files of the superblock, while they are replaced
//	volume.freezeMu             the change of the layer that takes writes
//	volume.commitMu             the commit records of journals
//	journal.File.growMu         the part of a journal's file that is allocated and mapped
//	catalog.mu *                refs in memory, volumes, views, users, claims
//	View.mu *                   the base of a view, and its pin
//	volume.mu *                 layers, the live map, base, pin; which journal record is the next
//	spaceAccount.lookMu         that one asks at a time what is free
//	segment.File.listMu         a segment's header, object list and footer, on disk
//	journal.File.headerMu       a journal's header
//	storeIndex.putMu            that entries reach the index in one order
//	upkeep.writeMu              the maintenance file, while it is replaced or verified
//	timeline.saveMu             the file of past states, while it is replaced
//	segment.File.mu *           the state of a segment, and its objects in memory
//
// and last those that protect some memory, under which no other lock is taken:
//
//	segment.Table.mu *          which segments there are
//	segment.FooterCache.mu *    footers in memory
//	segment.Sketches.mu *       what is known of segments without their footers
//	segment.Pins.mu *           the pin of readers that are of no image
//	object.Reader.nodesMu *     tree nodes in memory
//	object.Reader.scansMu *     scans of damaged segments
//	object.Quarantine.mu *      locations that are not to be read, or not to be pointed to
//	object.Verified.mu *        locations whose objects were found good
//	object.absentees.mu *       objects that no segment has
//	collector.mu *              which settlings run, which roots are held, how far a cycle is
//	reclaimer.mu *              settled layers whose space is to be freed
//	accounting.heldMu *         roots whose objects must stay until they are counted
//	readers.mu *                pins of volumes and views that are gone
//	segmentPool.mu *            append segments without a volume
//	damageBook.reportMu *       what opening has found damaged, and repaired
//	reindexer.mu *              how far the rebuilding of the index is
//	storeIndex.mu *             which segments the index has
//	upkeep.mu *                 which segments were verified when, and the settings of maintenance
//	timeline.mu *               past states of volumes
//	usage.mu *                  what files occupy on disk
//	watermark.mu *              the state of the space that is left
//	Store.workersMu *           that no worker starts once Close has begun
//
// Those with a star are of type Mutex: they are never held over I/O, nor while waiting for a lock
// that is. The others are of type IOMutex: they serialise I/O, are held over it, and are never
// taken on a queue's thread (package queuethread). What a queue's thread calls, such as
// Volume.Plan, Reserve, Commit and TryZero, takes locks with a star alone; Volume.TryFlush tries
// another, and does not wait for it.
//
// Packages below that have locks of their own (index, vfs, busfault) call no other package of the
// store while they hold them.
package lockorder
