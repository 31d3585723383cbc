// Package fs shows a store's volumes and snapshots as files, through FUSE.
//
//	MOUNT/
//	  volumes/NAME/live              the volume: read, write, fsync, punch holes, SEEK_HOLE/SEEK_DATA
//	  volumes/NAME/info.json         size, usage, root, attached device
//	  snapshots/NAME/SNAP/disk.img   read-only, sparse
//	  snapshots/NAME/SNAP/info.json
//	  history/NAME/STATE/disk.img    the same of past states, {17}
//	  by-id/ROOT/disk.img            the same by Merkle root
//	  diff/A..B                      the ranges in which B differs from A, as JSON lines
//
// # Data path
//
//	read(2) -> FUSE READ  -> handle -> Image.ReadAt
//	write(2) -> FUSE WRITE -> handle -> Volume.WriteAt
//	fsync(2) -> FUSE FSYNC -> handle -> Volume.Flush
//
// The mount holds no data and no state of its own: it asks a Source, and the Source's volume is the
// same engine object that a block device uses. A write through one is therefore visible through the
// other as soon as the write completes, unless the kernel caches a copy in between. Hence the two
// ways in which files are opened:
//
//   - live is opened with FOPEN_DIRECT_IO: reads and writes bypass the kernel's page cache and come
//     here. The block device over the volume still has a cache of its own, so only one of the two
//     can be written at a time unless sharing is requested: see sharedlive.go. mmap of live works
//     where the kernel has FUSE_DIRECT_IO_ALLOW_MMAP (6.6 and later); a mapping shows each page as
//     it was when first touched, or when the volume was last attached or detached.
//   - disk.img never changes, so the kernel may keep its pages for as long as it likes
//     (FOPEN_KEEP_CACHE). That is correct only because an inode number stands for one content: it
//     is a hash of the snapshot's identity including its time of creation, so a snapshot that was
//     deleted and created again under the same name is another inode.
//
// Directories are never cached: entries and attributes are valid for zero seconds, so what was
// deleted from the store is ENOENT at the next lookup.
//
// # File handles
//
// A mount cannot be exported over NFS. A file handle outlives the kernel's inode; the server then
// has to resolve the handle from the node ID alone, and go-fuse forgets a node when the kernel does
// and never reuses its ID. So name_to_handle_at(2) fails with EOPNOTSUPP (FUSE_NO_EXPORT_SUPPORT,
// Linux 6.9). Older kernels return a handle that is ESTALE later.
//
// # Layers
//
// tree.go and the files beside it are the tree: nodes and handles, independent of the transport,
// which sees them as a fuse.RawFileSystem. server.go and mount.go are the transport: /dev/fuse,
// mount(2), the request loop. newTree's result is the only connection between the two.
package fs
