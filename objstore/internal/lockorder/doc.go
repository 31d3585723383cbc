// Package lockorder lists the locks of the store, says what each protects, and in which order they are taken; in a build
// with the tag lockorder, it panics when that order is broken.
//
// A goroutine that holds a lock may take those below it in the list, and no other. Nobody holds two locks of one line, such
// as those of two volumes. TryLock, which does not wait, may be used against the order.
//
//	lock                        protects                                                        held over
//
//	Store.checking              that one Check runs at a time                                   file operations
//	Store.naming                the superblocks, while NewUUID replaces them                    file operations
//	volume.settleMu             layers from being settled, dropped or replayed by two at once   file operations
//	volume.rmw                  a sector that is read, changed and written                      file operations, waits
//	catalog.logMu               the refs log, and decisions about names                         file operations
//	volume.freezeMu             the change of the layer that takes writes                       file operations
//	volume.commitMu             the journals' commit records, and volume.durable                file operations
//	journal.File.growMu         the window of a journal's file that is allocated and mapped     file operations
//	catalog.mu                  refs in memory, volumes, views, users, claims                   nothing
//	View.mu                     the base of a view                                              nothing
//	volume.mu                   layers, live map, base, pin; which record is the next           nothing
//	spaceAccount.lookMu         that one asks at a time what is free                            file operations
//	segment.File.recordMu       a segment's header, directory and footer                        file operations
//	journal.File.headerMu       a journal's header                                              file operations
//	storeIndex.putMu            that entries reach the index in one order                       file operations
//
// and locks that protect some memory, under which nobody takes another:
//
//	segment.File.listMu, .mu    the objects that the segment's record lists, and its state
//	segment.Table.mu            which segments there are
//	segment.FooterCache.mu      footers in memory
//	segment.Sketches.mu         what is known of segments without their footers
//	reclaimer.mu                settled layers whose space is to be freed
//	appendPool.mu               append segments without a volume
//	Store.nodesMu               tree nodes in memory
//	damageBook.badMu            locations that are quarantined; what opening has found
//	goodPlaces.mu               locations whose objects were found good
//	absentees.mu                objects that no segment has
//	storeIndex.mu               which segments the index has
//	usage.mu                    what files occupy on disk
//	watermark.mu                the state of the space that is left
//	Store.workersMu             that no worker starts once Close has begun
//
// Packages below that have locks of their own (index, vfs, busfault) call nobody while they hold them.
//
// What runs on a queue's thread (Volume.Plan, Reserve, Commit, TryZero) takes catalog.mu at most, and none of those that are
// held over file operations.
package lockorder
