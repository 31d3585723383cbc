package daemon

// The locks of the process outside the store, whose own are listed in objstore/internal/lockorder.
// A goroutine that holds a lock may take those below it in the list, those of the store among them,
// and no other. The turns of a change (type turns) come before all: a change that has one may take
// any lock, and only createScratch takes one while it holds a lock, namely a turn that is free.
//
//	lock                          protects
//
//	daemon.checks.ofClient        that one check of a client runs at a time
//	daemon.Daemon.scratch         a scratch volume, from its creation until its turn is taken
//	daemon.Daemon.naming          the names of snapshots, while a device of one enters the table
//	daemon.mountTable.saving      that the newest list of mounts is the last to be written
//	devices.Table.writing         the file with the list of devices, while it is replaced
//	fs.refCounted.mu              what the handles of a file share, while it is opened and closed
//	fs.diffHandle.mu              the text of an open diff, while it is read
//	daemon.pageDropper.mu         the pipes to the process that drops pages
//	daemon.descriptors.mu         the number of open files, while they are counted
//	image.Image.meta              a qcow2 image's tables, while they are loaded and their entries written
//	image.group.run               that one sync of an image runs at a time
//	image.allocator.mu            the use counts of an image's clusters, and their blocks on disk
//	zoned.medium.mu               that one flush of a zoned disk runs at a time
//	mirror.array.mu *             which legs of a mirror count, and which ranges are under way; only
//	                              queue.mailbox is taken below it
//
// and last those that protect some memory, under which nobody takes another:
//
//	daemon.turns.mu *             which turns are taken
//	daemon.mountTable.mu *        which mounts there are
//	daemon.targetDevices.mu *     which devices without a volume there are
//	daemon.identity.mu *          the store's UUID
//	daemon.background.mu *        whether a pass runs, or may
//	daemon.collections.mu *       which collections run, or are asked for
//	devices.Table.mu *            which devices there are, and what an earlier daemon has left
//	server.listener.mu *          the number of connections
//	fs.liveFile.mu *              what a live file has shown last
//	fs.tree.mu *                  which handles are open
//	fs.patient.mu *               how long a request may wait that was interrupted
//	blockdev.control.mu *         the idle submitter of commands
//	blockdev.Device.mu *          whether a device is being stopped, and how it ended
//	image.Image.mu *              an image's entries in memory, and the changes under way
//	image.group.mu *              who waits for the next sync of an image
//	nbd.Target.mu *               the first connection to an NBD server, until a queue takes it
//	nbd.part.mu *                 what goroutines have for a queue of an NBD device
//	zone.Set.mu *                 the conditions of a zoned disk's zones
//	blockdev.abandoned *          buffers of commands that were given up
//	queue.Server.mu *             the first error of a queue
//	queue.mailbox *               what other goroutines have for a queue
//	queue.parts.mu *              parts of targets whose entries the kernel still has
//	queue.procs *                 the number of queue threads
//
// Those with a star are never held over I/O. The others are, and no queue's thread takes one. A lock
// without a field's name is embedded in the type, or in the variable, of that name.
