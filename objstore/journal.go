package objstore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/google/uuid"

	"varve/objstore/vfs"
)

// A journal file records what one generation (layer) of one volume did, in order. It is written through a
// shared mapping: a record is in the page cache when its request is answered, so that the death of the
// process loses nothing, and costs no system call.
//
// The kernel may write such a page back at any time, before the data that its records speak of is durable.
// So only the records below the last commit record count after a power cut; a commit record is written when
// the data of the records below it has been made durable. After the mere death of the process (the header
// says in which boot, and on which mount, the file was written) all whole records count.
//
//	header, one block                     record, 32 bytes
//	  0  magic "varveJNL"                   0  CRC-32C u32 of the rest, seeded by the file and the position
//	  8  version u32                        4  type u8: 1 data, 2 hole, 3 commit
//	 12  zeroes                             5  flags u8: 1 on a commit: the generation is complete
//	 16  store UUID, 16 bytes               6  zeroes
//	 32  volume UUID, 16 bytes              8  sector u64; commit: how many records it covers
//	 48  generation u64                    16  sectors u64
//	 56  boot, CRC-32C of its name u32      24  segment u32
//	 60  mount, CRC-32C of its name u32     28  block u32
//	 64  zeroes
//	508  CRC-32C of bytes 0 to 507
const (
	journalDir     = "journal"
	journalMagic   = "varveJNL"
	journalHeader  = blockSize
	recordSize     = 32
	windowSize     = 1 << 20 // mapped at a time
	windowRecords  = windowSize / recordSize
	recordData     = 1
	recordHole     = 2
	recordCommit   = 3
	flagFinal      = 1
	commitHeadroom = 256 // records kept free for commits that follow no record
)

var errTorn = errors.New("record torn or never written")

// record is one entry of a journal.
type record struct {
	kind    uint8
	flags   uint8
	sector  uint64
	count   uint64
	segment uint32
	block   uint32
}

func (r *record) encode(b []byte, seed uint32) {
	_ = b[recordSize-1]
	b[4], b[5], b[6], b[7] = r.kind, r.flags, 0, 0
	le.PutUint64(b[8:], r.sector)
	le.PutUint64(b[16:], r.count)
	le.PutUint32(b[24:], r.segment)
	le.PutUint32(b[28:], r.block)
	le.PutUint32(b, crc32.Update(seed, castagnoli, b[4:recordSize]))
}

func decodeRecord(b []byte, seed uint32) (record, error) {
	if crc32.Update(seed, castagnoli, b[4:recordSize]) != le.Uint32(b) {
		return record{}, errTorn
	}
	r := record{
		kind: b[4], flags: b[5],
		sector: le.Uint64(b[8:]), count: le.Uint64(b[16:]),
		segment: le.Uint32(b[24:]), block: le.Uint32(b[28:]),
	}
	if r.kind < recordData || r.kind > recordCommit {
		return r, fmt.Errorf("journal record of type %d", r.kind)
	}
	return r, nil
}

// origin says which kernel's page cache a journal was written through.
type origin struct{ boot, mount string }

type journal struct {
	name   string
	file   vfs.File
	header []byte
	seed   uint32

	// Under the volume's lock.
	windows   [][]byte
	count     int // records written
	committed int // records that the last durable commit covers
	final     bool
	max       int // records it may hold
}

func journalName(volume uuid.UUID, gen uint64) string {
	return fmt.Sprintf("%s/%s-%016x", journalDir, volume, gen)
}

func encodeJournalHeader(store, volume uuid.UUID, gen uint64, o origin) []byte {
	b := make([]byte, 512)
	copy(b, journalMagic)
	le.PutUint32(b[8:], formatVersion)
	copy(b[16:], store[:])
	copy(b[32:], volume[:])
	le.PutUint64(b[48:], gen)
	le.PutUint32(b[56:], crc([]byte(o.boot)))
	le.PutUint32(b[60:], crc([]byte(o.mount)))
	le.PutUint32(b[508:], crc(b[:508]))
	return b
}

// createJournal makes an empty journal with room for the first window, durable with its directory entry.
func createJournal(fs vfs.FS, store, volume uuid.UUID, gen uint64, o origin, maxRecords int) (*journal, error) {
	name := journalName(volume, gen)
	if err := fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := fs.Create(name)
	if err != nil {
		return nil, err
	}
	h := encodeJournalHeader(store, volume, gen, o)
	j := &journal{name: name, file: f, header: h, seed: crc(h[:56]), max: maxRecords}
	if _, err = f.WriteAt(h, 0); err == nil {
		err = j.extend()
	}
	if err == nil {
		err = f.Datasync()
	}
	if err == nil {
		err = fs.SyncDir(journalDir)
	}
	if err != nil {
		j.close()
		_ = fs.Remove(name)
		return nil, fmt.Errorf("make journal: %w", err)
	}
	return j, nil
}

// extend allocates and maps one more window.
func (j *journal) extend() error {
	off := int64(journalHeader + len(j.windows)*windowSize)
	if err := j.file.Allocate(off, windowSize); err != nil {
		return err
	}
	w, err := j.file.Map(off, windowSize)
	if err != nil {
		return err
	}
	j.windows = append(j.windows, w)
	return nil
}

// room makes sure that n records fit, each with a commit of its own, beside the headroom. full: the generation
// must be frozen.
func (j *journal) room(n int) (full bool, err error) {
	need := j.count + 2*n + commitHeadroom
	if need > j.max {
		return true, nil
	}
	for need > len(j.windows)*windowRecords {
		if err := j.extend(); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (j *journal) slot(i int) []byte {
	o := i % windowRecords * recordSize
	return j.windows[i/windowRecords][o : o+recordSize]
}

func (j *journal) append(r *record) {
	r.encode(j.slot(j.count), j.seed+uint32(j.count))
	j.count++
}

// distrust has the next opening count what is committed and nothing else, as after a power cut: a sync has
// failed, and what it should have written may be lost while this kernel runs. Best effort, on a disk that fails.
func (j *journal) distrust() {
	if j.file != nil {
		h := append([]byte(nil), j.header...)
		copy(h[56:64], "distrust")
		le.PutUint32(h[508:], crc(h[:508]))
		_, _ = j.file.WriteAt(h, 0)
	}
}

// close unmaps and closes; what was appended stays in the page cache.
func (j *journal) close() {
	if j.file == nil {
		return
	}
	for _, w := range j.windows {
		_ = j.file.Unmap(w)
	}
	_ = j.file.Close()
	j.windows, j.file = nil, nil
}

// replay is what a journal file holds for recovery.
type replay struct {
	name    string
	gen     uint64
	records []record // without the commits
	final   bool     // the generation was complete
	trusted bool     // written through this kernel's page cache: every whole record counts
	whole   int      // records read whole, commits too
	covered int      // records that the last commit covers
	short   bool     // the file is not what a finished creation leaves
	last    int      // position behind the last record that is no commit
	raw     []byte   // the file up to the last whole record
}

// readJournal reads a journal file and leaves it closed. A file whose header never became durable is empty.
func readJournal(fs vfs.FS, name string, store, volume uuid.UUID, gen uint64, trust func(boot, mount bool) bool, o origin) (*replay, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readAll(f)
	if err != nil {
		return nil, err
	}
	rp := &replay{name: name, gen: gen, short: len(data) < journalHeader+windowSize || allZero(data[:512])}
	if len(data) < journalHeader || allZero(data[:512]) {
		if len(data) > journalHeader && !allZero(data[journalHeader:]) {
			return nil, &CorruptError{File: name, Object: "journal header", Err: errors.New("header missing, records there")}
		}
		return rp, nil
	}
	want := encodeJournalHeader(store, volume, gen, o)
	if crc(data[:508]) != le.Uint32(data[508:]) || string(data[:56]) != string(want[:56]) {
		return nil, &CorruptError{File: name, Object: "journal header", Err: errors.New("checksum, or the header of another file")}
	}
	rp.trusted = trust(le.Uint32(data[56:]) == le.Uint32(want[56:]), le.Uint32(data[60:]) == le.Uint32(want[60:]))
	err = rp.scan(data, crc(want[:56]))
	rp.raw = data[:journalHeader+rp.whole*recordSize]
	return rp, err
}

func (rp *replay) scan(data []byte, seed uint32) error {
	var at []int // position of each record
	for off := journalHeader; off+recordSize <= len(data); off += recordSize {
		r, err := decodeRecord(data[off:], seed+uint32(rp.whole))
		if errors.Is(err, errTorn) {
			if rp.damaged(data[off:], seed) {
				return &CorruptError{File: rp.name, Offset: int64(off), Object: "journal record", Err: errTorn}
			}
			break
		}
		if err != nil || r.kind == recordCommit && r.sector > uint64(rp.whole) {
			return &CorruptError{File: rp.name, Offset: int64(off), Object: "journal record", Err: err}
		}
		if r.kind == recordCommit {
			rp.covered = int(r.sector)
			rp.final = rp.final || r.flags&flagFinal != 0
		} else {
			rp.records = append(rp.records, r)
			at = append(at, rp.whole)
			rp.last = rp.whole + 1
		}
		rp.whole++
	}
	if rp.trusted {
		return nil
	}
	for len(at) > 0 && at[len(at)-1] >= rp.covered {
		at = at[:len(at)-1]
	}
	rp.records = rp.records[:len(at)]
	return nil
}

// damaged tells a record that has become unreadable from one that was never written whole: what lies behind it,
// in rest, was written later. Without a power cut that is damage. After one, two commits are: the second is only
// written when the first, and all before it, are durable.
func (rp *replay) damaged(rest []byte, seed uint32) bool {
	commits := 0
	for i := 1; (i+1)*recordSize <= len(rest); i++ {
		r, err := decodeRecord(rest[i*recordSize:], seed+uint32(rp.whole+i))
		if err != nil {
			continue
		}
		if r.kind == recordCommit {
			commits++
		}
		if rp.trusted || commits == 2 {
			return true
		}
	}
	return false
}

// finish closes the generation after its replay, durably: what was replayed counts from now on, after a power
// cut too, and nothing else in the file does. The data of the replayed records must be durable.
func (rp *replay) finish(fs vfs.FS, store, volume uuid.UUID) error {
	f, err := fs.Open(rp.name)
	if err != nil {
		return err
	}
	defer f.Close()
	// What was read may be in the page cache only, and no longer known there as something to be written: the
	// process that wrote it was killed before it could sync, or its sync has failed.
	if _, err := f.WriteAt(rp.raw, 0); err != nil {
		return err
	}
	// A final commit that covers less is of a recovery that did not trust the cache, and was killed. Nothing was
	// built on that, and this one may know better.
	if rp.final && (rp.trusted && rp.covered >= rp.last || rp.covered+1 >= rp.whole) {
		return f.Datasync()
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	end := int64(len(rp.raw))
	if err := wipe(f, end, size); err != nil {
		return err
	}
	h := encodeJournalHeader(store, volume, rp.gen, origin{boot: "finished", mount: "finished"})
	covers := rp.covered
	if rp.trusted {
		covers = rp.whole
	}
	b := make([]byte, recordSize)
	r := record{kind: recordCommit, flags: flagFinal, sector: uint64(covers)}
	r.encode(b, crc(h[:56])+uint32(rp.whole))
	// The commit goes first: without it, the next recovery must come to the same decision as this one.
	if _, err := f.WriteAt(b, end); err != nil {
		return err
	}
	if err := f.Datasync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(h, 0); err != nil {
		return err
	}
	return f.Datasync()
}

func wipe(f vfs.File, from, to int64) error {
	zero := make([]byte, 64<<10)
	for from < to {
		n := min(int64(len(zero)), to-from)
		if _, err := f.WriteAt(zero[:n], from); err != nil {
			return err
		}
		from += n
	}
	return f.Datasync()
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
