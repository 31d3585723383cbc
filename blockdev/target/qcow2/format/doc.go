// Package format encodes and decodes the structures of a qcow2 image, versions 2 and 3, as qemu's
// docs/interop/qcow2.rst specifies them. All numbers are big endian.
//
//	file     | header | refcount table | refcount blocks | L1 table | L2 tables | data | ...
//	           cluster 0; everything else is anywhere, at the start of a cluster
//
//	guest offset -> L1 entry -> L2 table -> L2 entry -> host cluster, the "data"
//	host cluster -> refcount table entry -> refcount block -> how often it is in use
//
//	header   0 magic "QFI\xfb"      4 version           8 backing name offset, 16 length
//	        20 cluster bits        24 guest size       32 encryption, 36 L1 entries, 40 L1 offset
//	        48 refcount table     56 its clusters      60 snapshots, 64 their table
//	version 3:
//	        72 incompatible       80 compatible        88 autoclear features
//	        96 refcount order    100 header length    104 compression type
//	        then extensions: type, length, bytes padded to 8; type 0 ends them
//
//	L1 entry         63 COPIED | 55..9 offset of an L2 table
//	L2 entry         63 COPIED | 62 compressed | 55..9 host offset | 0 reads as zeroes
//	  compressed     62 | x..61 further sectors | 0..x-1 host offset, where x = 62 - (cluster bits - 8)
//	  extended       a second word: 63..32 subclusters that read as zeroes, 31..0 allocated ones
//
// COPIED says that the refcount is one: the cluster may be written in place.
//
// Decoders take bytes that anybody may have written. They check each number against the limits that
// qemu has too and against the size of the file, and allocate no more than the bytes that they are
// given.
package format

import (
	"errors"
	"fmt"

	"varve/uring/queue"
)

// Errors of decoders, both of which are queue.ErrInvalid.
var (
	// ErrDamaged: what the specification does not allow.
	ErrDamaged = fmt.Errorf("%w: damaged qcow2 image", queue.ErrInvalid)
	// ErrUnsupported: what the specification allows, and this package does not know.
	ErrUnsupported = fmt.Errorf("%w: qcow2 image", queue.ErrInvalid)
	// ErrNoImage: no qcow2 image at all.
	ErrNoImage = errors.New("no qcow2 image")
)

// Limits, most of which are qemu's.
const (
	MinClusterBits = 9
	MaxClusterBits = 21
	maxL1          = 32 << 20 // bytes of an L1 table
	MaxRefTable    = 8 << 20  // bytes of a refcount table
	maxSnapshots   = 65536
	maxBackingName = 1023      // bytes
	maxOffset      = 1<<56 - 1 // of a host cluster
)

func damaged(f string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(f, args...))
}

func unsupported(f string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(f, args...))
}
