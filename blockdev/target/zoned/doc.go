// Package zoned is a zoned disk: one that moves nothing (NewNull), or one in a file or block device
// (Open). The zones and their rules are in package zone; here are the requests, and in a file the
// write pointers.
//
//	0          4 KiB      8 KiB    64 KiB                    DataOffset
//	+----------+----------+--------+-------------------------+--------+--------+-- ... --+
//	| super    | super    |   0    | write pointers          | zone 0 | zone 1 |         |
//	+----------+----------+--------+-------------------------+--------+--------+-- ... --+
//
// superblock.go and pointers.go draw the parts. Reads, writes and appends are secondaries between the
// request's own pages and the file. What lies beyond a zone's write pointer reads as zeroes, whatever
// the file holds there.
//
// # Promises
//
// What was flushed outlives a power cut: after it the write pointer is at or beyond the end of what
// was flushed, and what is below the pointer is what was written. What was acknowledged outlives the
// death of the server. For that, these steps are in order:
//
//	write   1. the bytes
//	        2. the running pointer, in memory that outlives the process (running.go)
//	        3. the answer
//	flush   1. a copy of all running pointers
//	        2. a sync of the file: the bytes below them are durable
//	        3. the pages of pointers that differ from those in the file, written and synced
//	reset   1. the running pointer, at the zone's start
//	        2. a flush: the pointer is durable before a byte below the old one changes
//	        3. the space is freed
//	        4. the answer
//	open    1. the running pointers, if their server died in this boot; else those in the file
//	        2. a flush, before the first request: what a dead server had begun is durable
//
// A write with FUA is a write and a flush: the bytes before it in the zone have to be durable before
// a pointer is that is behind them.
//
// A sync of the file that has failed is final: the kernel reports a lost page once, and the next sync
// would vouch for it. All flushes and resets fail from then on, until the disk is opened again, at the
// pointers that are durable.
//
// # Requests that are sent again
//
// After the death of the server the kernel sends again what was not answered. A write that was done
// already is recognized (package zone). An append that was done already is appended again; the first
// copy is a part of the zone that nobody was told of.
package zoned
