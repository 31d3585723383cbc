package journal

import (
	"errors"
	"fmt"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// Replay is what a journal file holds for recovery. Positions in it count records from 0, commits
// included.
type Replay struct {
	ID      ID
	Records []Record   // those that count, without the commits
	At      []int      // the position of each record that was read, of which those that count are the first
	Commits []CommitAt // those that were read
	Whole   int        // records that were read whole, commits included
	Covered int        // records that the last commit covers
	Last    int        // the position behind the last record that is no commit
	Final   bool       // the generation was complete

	Trusted   bool   // written through this kernel's page cache: every whole record counts
	Contested bool   // whether to trust it is the administrator's decision
	Copied    bool   // the file is a copy of the one that was written
	Closing   uint64 // of the header: the number of a clean close, or 0

	Promised  int                // records that the header says were durable
	Short     bool               // the file is shorter than it was created
	Cut       bool               // records that were there are left out
	Blind     bool               // there may have been more records, it is not known how many
	BadHeader *disk.CorruptError // a damaged header that could be done without

	why  string // it is not trusted
	raw  []byte // the file up to the last whole record
	full bool   // the file ends without room for another record
}

// CommitAt is a commit record that was read.
type CommitAt struct {
	At     int       // its position
	Covers int       // records
	Final  bool      // the generation is complete
	Time   time.Time // when it was written; zero: unknown
}

// Trust is how much of a journal counts: all whole records, or what was committed.
type Trust struct {
	Cache     bool // all of it
	Contested bool // not all of it, and that may be wrong
	Moved     bool // the same for a copy as for the file itself
}

// Name is the path of the file, relative to the store.
func (rp *Replay) Name() string { return rp.ID.Name() }

// Read reads a journal, and leaves it closed. trust decides how much of it counts, by whether it
// was written in the boot, and through the mount, of the given origin. With a disk.CorruptError
// comes what is good before the damage; with any other error there is no Replay.
func Read(fs vfs.FS, id ID, o Origin, trust func(sameBoot, sameMount bool) Trust) (*Replay, error) {
	f, err := fs.Open(id.Name())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := disk.ReadContent(f)
	if err != nil {
		return nil, err
	}
	inode, err := f.Identity()
	if err != nil {
		return nil, err
	}
	data := c.Data
	rp := &Replay{ID: id, Short: len(data) < headerBlock+WindowSize}
	if len(data) < headerBlock {
		return rp, nil
	}
	h, want := header(data[:headerSize]), newHeader(id, o)
	if !h.sealed() || !h.of(want) {
		return rp, rp.readHeaderless(&c)
	}
	sameBoot := le.Uint32(h[offBoot:]) == le.Uint32(want[offBoot:])
	sameMount := le.Uint32(h[offMount:]) == le.Uint32(want[offMount:])
	if rp.judge(h, inode, trust(sameBoot, sameMount)); !rp.Trusted {
		rp.why = h.whyDistrusted(sameBoot)
	}
	err = rp.scan(&c, want.seed())
	rp.raw = data[:Offset(rp.Whole)]
	n := min(h.durable(), 1<<40)
	if rp.Promised = int(n); err == nil && uint64(rp.Whole) < n {
		err = &disk.CorruptError{
			File: rp.Name(), Offset: int64(len(rp.raw)), Object: "journal record",
			Err: fmt.Errorf("the header says that %d records were durable, %d can be read", n, rp.Whole),
		}
	}
	return rp, err
}

// readHeaderless reads a journal whose header is damaged. Which journal it is is known from its
// name, but not through which page cache it was written: what is committed counts in any case. If
// that is all, nothing is lost.
func (rp *Replay) readHeaderless(c *disk.Content) error {
	rp.why = "its header is damaged"
	bad := &disk.CorruptError{File: rp.Name(), Object: "journal header", Err: c.Cause("checksum, or the header of another file")}
	h := newHeader(rp.ID, Origin{Boot: "damaged", Mount: "damaged"})
	copy(c.Data, h)
	err := rp.scan(c, h.seed())
	rp.raw = c.Data[:Offset(rp.Whole)]
	if rp.BadHeader = bad; err == nil && rp.Covered < rp.Last {
		err = bad
	}
	return err
}

// judge notes what a good header, and the file that it was found in, say of the records.
func (rp *Replay) judge(h header, file vfs.Identity, t Trust) {
	rp.Closing = h.closing()
	if w := h.writer(); w.Known() && file.Known() && !t.Moved {
		rp.Copied = !w.Same(file)
	}
	rp.Trusted = t.Cache && !rp.Copied && !h.distrusted() && !h.finished()
	rp.Contested = t.Contested && !rp.Copied
}

func (rp *Replay) scan(c *disk.Content, seed uint32) error {
	err := rp.readRecords(c, seed)
	rp.Truncate(rp.Whole)
	return err
}

// readRecords takes the records up to the first that is not whole.
func (rp *Replay) readRecords(c *disk.Content, seed uint32) error {
	data := c.Data
	for off := headerBlock; off+RecordSize <= len(data); off += RecordSize {
		bad := &disk.CorruptError{File: rp.Name(), Offset: int64(off), Object: "journal record"}
		r, err := decodeRecord(data[off:], seed+uint32(rp.Whole))
		if errors.Is(err, errTorn) {
			bad.Err = c.Cause(errTorn.Error())
			if at := c.BadFrom(int64(off)); at >= 0 && at <= int64(off) || rp.damaged(data[off:], seed) {
				return bad
			}
			return nil
		}
		if err == nil && r.Type == Commit && r.Sector > uint64(rp.Whole) {
			err = fmt.Errorf("it covers %d records, and is number %d", r.Sector, rp.Whole)
		}
		if bad.Err = err; err != nil {
			return bad
		}
		if r.Type == Commit {
			rp.Commits = append(rp.Commits, CommitAt{rp.Whole, int(r.Sector), r.Flags&flagFinal != 0, r.CommitTime()})
		} else {
			rp.Records = append(rp.Records, r)
			rp.At = append(rp.At, rp.Whole)
		}
		rp.Whole++
	}
	rp.full = true
	return nil
}

// damaged tells a record that has become unreadable from one that was never written whole: what
// lies behind it, in rest, was written later. Without a power cut anything there is proof of
// damage. After one, two commits are: the second is only written when the first, and all before it,
// are durable.
func (rp *Replay) damaged(rest []byte, seed uint32) bool {
	if rp.Trusted && !disk.AllZero(rest[RecordSize:]) {
		return true
	}
	commits := 0
	for i := 1; (i+1)*RecordSize <= len(rest); i++ {
		r, err := decodeRecord(rest[i*RecordSize:], seed+uint32(rp.Whole+i))
		if err != nil {
			continue
		}
		if r.Type == Commit {
			commits++
		}
		if commits == 2 {
			return true
		}
	}
	return false
}

// Truncate leaves what is before position n, and decides anew what of it counts.
func (rp *Replay) Truncate(n int) {
	rp.Cut = rp.Cut || n < rp.Whole
	rp.Whole, rp.Covered, rp.Final, rp.Last = n, 0, false, 0
	rp.raw = rp.raw[:min(len(rp.raw), int(Offset(n)))]
	for _, c := range rp.Commits {
		if c.At < n {
			rp.Covered, rp.Final = c.Covers, rp.Final || c.Final
		}
	}
	counts := rp.Covered
	if rp.Trusted {
		counts = n
	}
	keep := 0
	for _, at := range rp.At {
		if at < n {
			rp.Last = at + 1
		}
		if at < min(n, counts) {
			keep++
		}
	}
	rp.Records = rp.Records[:keep]
}

// EndsWithoutRoom reports a file that ends without the room that a journal always has. After a
// power cut the size of a file that has grown may be lost while its records are not, until a commit
// behind them is durable: the second is only written then.
func (rp *Replay) EndsWithoutRoom() bool {
	behind := 0
	for _, c := range rp.Commits {
		if c.At >= rp.Whole-commitHeadroom {
			behind++
		}
	}
	return rp.full && (rp.Trusted || behind > 1)
}

// Unflushed says, for a log, what has become of writes that were answered and not flushed.
func (rp *Replay) Unflushed() string {
	switch {
	case rp.Final:
		return "none: the generation was complete"
	case rp.Trusted:
		return "kept"
	}
	return "dropped: " + rp.why
}
