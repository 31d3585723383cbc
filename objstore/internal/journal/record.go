// Package journal records what the generations of volumes did, in order: which sectors were written
// where, and which became holes. A generation is what one layer of a volume holds, so that a
// journal is all it takes to make the layer again.
//
// A journal is written through a shared mapping of its file. A record is in the page cache when its
// request is answered: it survives the death of the process, and costs no system call.
//
// The kernel may write a page of the mapping back at any time, before the data that its records
// speak of is durable. After a power cut, therefore, only the records below the last commit record
// count; it is written when the data of the records below it has been made durable. After the mere
// death of the process all whole records count: the header says in which boot, and through which
// mount, the file was written.
//
//	header, one block                     record, 32 bytes
//	  0  magic "varveJNL"                   0  CRC-32C u32 of the rest, seeded by the file and the position
//	  8  version u32                        4  type u8: 1 data, 2 hole, 3 commit
//	 12  zeroes                             5  flags u8: 1 on a commit: the generation is complete
//	 16  store UUID, 16 bytes               6  zeroes
//	 32  volume UUID, 16 bytes              8  sector u64; commit: how many records it covers
//	 48  generation u64                    16  sectors u64; commit: when it was written, in nanoseconds
//	 56  boot, CRC-32C of its name u32         of Unix time, 0: unknown
//	 60  mount, CRC-32C of its name u32    24  segment u32
//	 64  records that were durable when    28  block u32
//	     the header was written u64
//	 72  inode of the file u64; 0: not known
//	 80  birth of the file i64, nanoseconds of Unix time; 0: not known
//	 88  generation of the inode u32; 0: not known
//	 92  zeroes
//	 96  closing u64: the number of the clean close that left the file; 0: in use, or not closed cleanly
//	104  zeroes
//	508  CRC-32C of bytes 0 to 507
//
// The records follow the header's block, up to the end of the file: it grows by whole windows, of
// zeroes.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"varve/objstore/internal/disk"
)

var le = binary.LittleEndian

// RecordSize in bytes. It divides a page, so that no record lies on two.
const RecordSize = 32

// Offset is where record i lies in the file, in bytes. Records are counted from 0.
func Offset(i int) int64 { return headerBlock + int64(i)*RecordSize }

// Type is what a record records.
type Type uint8

// The types of records.
const (
	Data   Type = 1
	Hole   Type = 2
	Commit Type = 3
)

const flagFinal = 1

var errTorn = errors.New("record torn or never written")

// Record is one entry of a journal.
type Record struct {
	Type    Type
	Flags   uint8
	Sector  uint64 // the first; of a commit: how many records it covers
	Count   uint64 // sectors; of a commit: see CommitTime
	Segment uint32 // of data
	Block   uint32 // in the segment, where the data begins
}

// NewCommit returns a commit of the first covers records. Final: the generation is complete. The
// time is for people; nothing is decided by it.
func NewCommit(covers int, final bool, now time.Time) Record {
	r := Record{Type: Commit, Sector: uint64(covers), Count: uint64(now.UnixNano())}
	if final {
		r.Flags = flagFinal
	}
	return r
}

// CommitTime is when a commit was written; zero where it does not say, as those of older versions
// and of recoveries.
func (r *Record) CommitTime() time.Time {
	if r.Count == 0 || r.Count > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(0, int64(r.Count)).UTC()
}

// encode writes the record to b. seed is that of the file plus the record's position.
func (r *Record) encode(b []byte, seed uint32) {
	_ = b[RecordSize-1]
	b[4], b[5], b[6], b[7] = uint8(r.Type), r.Flags, 0, 0
	le.PutUint64(b[8:], r.Sector)
	le.PutUint64(b[16:], r.Count)
	le.PutUint32(b[24:], r.Segment)
	le.PutUint32(b[28:], r.Block)
	le.PutUint32(b, disk.UpdateChecksum(seed, b[4:RecordSize]))
}

func decodeRecord(b []byte, seed uint32) (Record, error) {
	if disk.UpdateChecksum(seed, b[4:RecordSize]) != le.Uint32(b) {
		return Record{}, errTorn
	}
	r := Record{
		Type: Type(b[4]), Flags: b[5],
		Sector: le.Uint64(b[8:]), Count: le.Uint64(b[16:]),
		Segment: le.Uint32(b[24:]), Block: le.Uint32(b[28:]),
	}
	if r.Type < Data || r.Type > Commit {
		return r, fmt.Errorf("journal record of type %d", r.Type)
	}
	return r, nil
}
