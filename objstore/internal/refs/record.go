// Package refs keeps the names of a store: volumes, snapshots, and the roots that they point to.
// State has all of it in memory; Log is the file that leads to a State. The superblock, which says
// how to read the store, is here too.
//
// A frame of the log is a JSON array of records that take effect together, or not at all: refs are
// few and small, and JSON can be read by people.
//
//	[{"op":"volume","id":"ffee…","name":"vol","size":10737418240,"block_size":512,"time":"2023-11-14T22:13:20Z"}]
//	[{"op":"head","id":"ffee…","gen":3,"root":"b2b2…","logical":16384},
//	 {"op":"snapshot","id":"ffee…","name":"snap","gen":3,"root":"b2b2…","logical":16384,"time":"2023-…"}]
//	[{"op":"resize","id":"ffee…","gen":3,"root":"c3c3…","size":21474836480,"logical":16384}]
//
// A snapshot has the size that its volume had when the snapshot was named; a volume that was
// resized since has another one. In a compacted log, which says the volume's present size first,
// such a snapshot's record has the size.
//
//	[{"op":"retired","retired":[7,12]}]
//
// The live objects of a retired segment are elsewhere, durably. Its file is unlinked after the
// record; if it still exists, it is a leftover, and what earlier records say about its object log
// does not count.
//
// Frames are those of package record. The log has two copies with the same bytes, as nothing else
// in a store knows the names of its volumes. It is compacted, into a new file, when the store opens
// and as it grows.
package refs

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Op is what a record does.
type Op string

// The operations, with the fields that they use.
const (
	OpVolume         Op = "volume"        // ID, Name, Size, BlockSize, Verify, Time, Of, Mark: there is such a volume
	OpVolumeDelete   Op = "volume-delete" // ID
	OpHead           Op = "head"          // ID, Gen, Root, Logical, ObjectLogs, Time: the volume has settled up to Gen
	OpResize         Op = "resize"        // as OpHead, and Size: the volume has settled up to Gen, with another size
	OpSnapshot       Op = "snapshot"      // ID, Name, Gen, Time; Root and Logical once settled; Size if it is not the volume's
	OpSnapshotDelete Op = "snapshot-delete"
	OpVerify         Op = "verify"          // ID, Verify
	OpPolicy         Op = "policy"          // ID, Policy: what is kept of the volume's past
	OpAutomatic      Op = "automatic"       // ID, Name, Time: the snapshot was made by the policy, at that time of the policy clock
	OpLimits         Op = "limits"          // ID, Quota, Reserve: of the volume; 0: none
	OpRename         Op = "rename"          // ID, To: the volume's name is To
	OpSnapshotRename Op = "snapshot-rename" // ID, Name, To: the snapshot's name is To
	OpSegments       Op = "segments"        // Gen: IDs below it may have been used; ObjectLogs
	OpMaxSize        Op = "max-size"        // Size: the most that the store may take on disk; 0: no maximum
	OpRetired        Op = "retired"         // Retired: these segments have no live objects any more, and their files are unlinked
)

// Freeing reports whether the records do nothing but give up what the store keeps.
func Freeing(recs []Record) bool {
	return !slices.ContainsFunc(recs, func(r Record) bool {
		return r.Op != OpVolumeDelete && r.Op != OpSnapshotDelete && r.Op != OpRetired
	})
}

// Record is one entry of the log.
type Record struct {
	Op        Op        `json:"op"`
	ID        uuid.UUID `json:"id,omitzero"` // of the volume
	Name      string    `json:"name,omitempty"`
	Gen       uint64    `json:"gen,omitempty"`
	Root      string    `json:"root,omitempty"` // hex
	Size      int64     `json:"size,omitempty"` // bytes
	BlockSize int       `json:"block_size,omitempty"`
	Logical   int64     `json:"logical,omitempty"` // bytes that are not holes
	Verify    bool      `json:"verify,omitempty"`
	Time      time.Time `json:"time,omitzero"`
	Quota     int64     `json:"quota,omitempty"`   // bytes
	Reserve   int64     `json:"reserve,omitempty"` // bytes
	To        string    `json:"to,omitempty"`      // the new name
	// Mark is what the marks of the volume's devices are made from, if not from the name: see
	// Volume.MarkName. A log has it only after a rename, which an older varve refuses.
	Mark string `json:"mark,omitempty"`
	// Of is the snapshot that a scratch volume lies over, for people: an older varve does not know
	// it.
	Of     string           `json:"of,omitempty"`
	Policy *RetentionPolicy `json:"policy,omitempty"`
	// ObjectLogs has the lengths, in bytes, of the object logs of segments when the record was
	// written: the objects that a root needs are in them. A log that is shorter, or missing while
	// its segment is not sealed, is damaged.
	ObjectLogs map[uint32]int64 `json:"dirs,omitempty"`
	Retired    []uint32         `json:"retired,omitempty"` // IDs of segments
}

// Needed returns the features that a store must have before the records are written: older versions
// of varve would not understand the records, or would drop a part of them.
func Needed(recs []Record) Features {
	var s Features
	for i := range recs {
		if f, ok := opFeatures[recs[i].Op]; ok {
			s = s.Union(NewFeatures(f))
		}
		if recs[i].Op == OpSnapshot && recs[i].Size != 0 {
			s = s.Union(NewFeatures(Resize))
		}
	}
	return s
}

// opFeatures are the operations that the first version of the format lacks.
var opFeatures = map[Op]Feature{
	OpResize:         Resize,
	OpLimits:         Quota,
	OpRename:         Rename,
	OpSnapshotRename: Rename,
	OpRetired:        RetiredSegments,
	OpPolicy:         Policy,
	OpAutomatic:      Policy,
}
