// Package image reads and writes the disk in a qcow2 image: where a guest's bytes are, and how they
// get a place.
//
// Lookup says where bytes are, so that a caller moves them itself: in a file of the chain, in a
// compressed cluster, or nowhere. A write to clusters that are the image's own and in use goes to
// them. All others are given a place first, in three steps, between which the caller moves the bytes:
//
//	Prepare         claims the guest clusters, takes free host clusters, copies what the write
//	                leaves of a cluster (copy on write)
//	<the caller writes to the extents that Prepare returns>
//	Change.Commit   makes the L2 entries name the new clusters; or Abort
//
// # Order
//
// What has been acknowledged outlives this process at once, and a power cut once Sync has returned:
// all metadata is written through. A power cut leaves any of the sectors that were written since the
// last sync, so that syncs order what depends on each other:
//
//	refcounts    are durable before a cluster is taken: clusters are reserved many at a time
//	data         is durable before the L2 entry that names it is written, unless the entry names a
//	             fresh cluster, which reads as zeroes, where there were zeroes before
//	L2 table     is durable before the L1 entry that names it is written, with the same exception
//	L2 entry     is durable before the refcount of the cluster that it no longer names goes down
//
// A crash therefore leaks clusters at worst: reserved ones, and those that were not yet freed. Opening
// the image for writing compares all refcounts with what the tables name, and takes leaks back.
//
// # Clusters in flight
//
// A cluster that is freed may still be read or written by requests in flight. Requests are counted in
// epochs (Enter, Leave), and a cluster is used again only when all requests of its epoch have left.
//
// # Locks
//
//	meta          loads of tables, and writes of L1 and L2 entries; held over I/O, by workers only
//	allocator.mu  the refcounts; held over I/O, by workers only
//	mu            what Lookup reads; never held over I/O
//
// They are taken in this order.
package image
