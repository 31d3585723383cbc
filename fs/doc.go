// Package fs shows a store's volumes and snapshots as files, through FUSE.
//
//	MOUNT/
//	  volumes/NAME/live              the volume: read, write, fsync, punch holes, SEEK_HOLE/SEEK_DATA
//	  volumes/NAME/info.json         what the store says of it
//	  snapshots/NAME/SNAP/disk.img   read-only, sparse
//	  snapshots/NAME/SNAP/info.json
//	  by-id/ROOT/disk.img            the same by Merkle root
//
// # Data path
//
//	read(2) -> FUSE READ  -> handle -> Image.ReadAt
//	write(2) -> FUSE WRITE -> handle -> Volume.WriteAt
//	fsync(2) -> FUSE FSYNC -> handle -> Volume.Flush
//
// The mount holds no data and no state of its own: it asks a Source, and the Source's volume is the same engine
// object that a block device uses. A write through one is therefore seen by the other as soon as it has completed,
// provided that the kernel keeps no copy in between. Hence the two ways in which files are opened:
//
//   - live is opened with FOPEN_DIRECT_IO: the kernel's page cache is not used, every read and write comes here.
//     The block device over the volume still has a cache of its own, so that only one of the two is written at a
//     time, unless both are asked to share: sharedlive.go. mmap of live works where the kernel has
//     FUSE_DIRECT_IO_ALLOW_MMAP (6.6 and later); a mapping reads what was there when its pages were first touched, or
//     when the volume was last attached or detached.
//   - disk.img never changes, so the kernel may keep its pages for as long as it likes (FOPEN_KEEP_CACHE). That is
//     right only because an inode number stands for one content: it is a hash of the snapshot's identity including
//     its time of creation, so that a snapshot deleted and made anew under its old name is another inode.
//
// Directories are never cached: an entry or attribute is valid for zero seconds, so what is deleted from the store
// is ENOENT on the next look.
//
// # File handles
//
// A mount can't be exported by NFS. A file handle outlives what the kernel knows of a file, and has to be resolved by
// the server then, from a node's number alone; go-fuse forgets a node when the kernel does, and gives its number to no
// other. So name_to_handle_at(2) is refused, with EOPNOTSUPP (FUSE_NO_EXPORT_SUPPORT, Linux 6.9), where it would
// otherwise give a handle that is ESTALE later. Older kernels give such handles.
//
// # Layers
//
// tree.go and the files beside it are the tree: nodes and handles, served by whatever can speak to a
// fuse.RawFileSystem. server.go and mount.go are the transport: /dev/fuse, mount(2), the request loop. They meet in
// newTree's result alone.
package fs
