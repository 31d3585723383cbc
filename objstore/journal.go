package objstore

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
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
//	 48  generation u64                    16  sectors u64; commit: when it was written, 0: unknown
//	 56  boot, CRC-32C of its name u32      24  segment u32
//	 60  mount, CRC-32C of its name u32     28  block u32
//	 64  records that were durable when the header was written u64
//	 72  inode of the file u64; 0: not known
//	 80  birth of the file i64, nanoseconds of Unix time; 0: not known
//	 88  generation of the inode u32; 0: not known
//	 92  zeroes
//	 96  closing u64: a number that the clean end of the store has given; 0: in use, or not ended cleanly
//	104  zeroes
//	508  CRC-32C of bytes 0 to 507
const (
	journalDir     = "journal"
	journalMagic   = "varveJNL"
	journalHeader  = disk.BlockSize
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
type journalRecord struct {
	kind    uint8
	flags   uint8
	sector  uint64
	count   uint64
	segment uint32
	block   uint32
}

func (r *journalRecord) encode(b []byte, seed uint32) {
	_ = b[recordSize-1]
	b[4], b[5], b[6], b[7] = r.kind, r.flags, 0, 0
	le.PutUint64(b[8:], r.sector)
	le.PutUint64(b[16:], r.count)
	le.PutUint32(b[24:], r.segment)
	le.PutUint32(b[28:], r.block)
	le.PutUint32(b, disk.UpdateChecksum(seed, b[4:recordSize]))
}

func decodeRecord(b []byte, seed uint32) (journalRecord, error) {
	if disk.UpdateChecksum(seed, b[4:recordSize]) != le.Uint32(b) {
		return journalRecord{}, errTorn
	}
	r := journalRecord{
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

	linked atomic.Bool // its name is durable, and those of the generations before it

	headerMu   sync.Mutex // one write of the header at a time; held over I/O
	marked     time.Time  // when the header was last written
	distrusted bool

	growMu sync.Mutex // one extension at a time; held over I/O, taken before the volume's lock

	// Under the volume's lock.
	windows   [][]byte // changes under growMu too
	count     int      // records written
	committed int      // records that the last durable commit covers
	final     bool
	max       int // records it may hold
}

func journalName(volume uuid.UUID, gen uint64) string {
	return fmt.Sprintf("%s/%s-%016x", journalDir, volume, gen)
}

func encodeJournalHeader(store, volume uuid.UUID, gen uint64, o origin) []byte {
	b := make([]byte, 512)
	copy(b, journalMagic)
	le.PutUint32(b[8:], disk.Version)
	copy(b[16:], store[:])
	copy(b[32:], volume[:])
	le.PutUint64(b[48:], gen)
	le.PutUint32(b[56:], disk.Checksum([]byte(o.boot)))
	le.PutUint32(b[60:], disk.Checksum([]byte(o.mount)))
	le.PutUint32(b[508:], disk.Checksum(b[:508]))
	return b
}

// journalWriter gives the identity of the file that a header was written to; unknown in those of older versions.
func journalWriter(header []byte) vfs.Identity {
	return vfs.Identity{
		Inode: le.Uint64(header[72:]), Birth: int64(le.Uint64(header[80:])), Generation: le.Uint32(header[88:]),
	}
}

func setJournalWriter(header []byte, id vfs.Identity) {
	le.PutUint64(header[72:], id.Inode)
	le.PutUint64(header[80:], uint64(id.Birth))
	le.PutUint32(header[88:], id.Generation)
	le.PutUint32(header[508:], disk.Checksum(header[:508]))
}

func journalClosing(header []byte) uint64 { return le.Uint64(header[96:]) }

func setJournalClosing(header []byte, closing uint64) {
	le.PutUint64(header[96:], closing)
	le.PutUint32(header[508:], disk.Checksum(header[:508]))
}

// journalDraft is what a journal is called while it is made: one that has its own name was finished, and is damaged
// if it is shorter than that.
const journalDraft = ".new"

// createJournal makes an empty journal with room for the first window. Its name is durable after link, before which
// nothing in it is: a generation of which nothing was committed may be missing after a power cut, if it is the newest.
func createJournal(fs vfs.FS, store, volume uuid.UUID, gen uint64, o origin, maxRecords int) (*journal, error) {
	name := journalName(volume, gen)
	draft := name + journalDraft
	if err := fs.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := fs.Create(draft)
	if err != nil {
		return nil, err
	}
	h := encodeJournalHeader(store, volume, gen, o)
	j := &journal{name: name, file: f, header: h, seed: disk.Checksum(h[:56]), max: maxRecords}
	failpoint.Here(failpoint.JournalFile)
	id, err := f.Identity()
	if setJournalWriter(h, id); err == nil {
		_, err = f.WriteAt(h, 0)
	}
	if err == nil {
		err = j.extend(new(sync.Mutex), 1) // nobody else knows the journal yet
	}
	if err == nil {
		err = f.Datasync()
	}
	if err == nil {
		err = fs.Rename(draft, name)
		failpoint.Here(failpoint.JournalNamed)
	}
	if err != nil {
		j.close()
		_ = fs.Remove(draft)
		_ = fs.Remove(name)
		return nil, fmt.Errorf("make journal: %w", err)
	}
	return j, nil
}

// link makes the journal's name durable: before its first commit, and before there is a next generation.
func (j *journal) link(fs vfs.FS) error {
	if j.linked.Load() {
		return nil
	}
	if err := fs.SyncDir(journalDir); err != nil {
		return err
	}
	j.linked.Store(true)
	return nil
}

// extend allocates and maps windows until n more records fit into what is mapped, all that the journal may hold is mapped, or it
// is closed. It blocks. mu is the volume's lock, which it takes only to look and to add a window.
func (j *journal) extend(mu sync.Locker, n int) error {
	j.growMu.Lock()
	defer j.growMu.Unlock()
	for j.file != nil {
		mu.Lock()
		enough, mapped := j.ready(n), int64(len(j.windows))
		mu.Unlock()
		if enough {
			return nil
		}
		off := journalHeader + mapped*windowSize
		if err := j.file.Allocate(off, windowSize); err != nil {
			return err
		}
		w, err := j.file.Map(off, windowSize)
		if err != nil {
			return err
		}
		mu.Lock()
		j.windows = append(j.windows, w)
		mu.Unlock()
	}
	return nil
}

// take is how far n more records reach, each with a commit of its own, beside the headroom.
func (j *journal) take(n int) int { return j.count + 2*n + commitHeadroom }

// full reports that the generation can't take n more records: it must be frozen. Under the volume's lock.
func (j *journal) full(n int) bool { return j.take(n) > j.max }

// fits reports whether n more records fit into what is mapped. Under the volume's lock.
func (j *journal) fits(n int) bool { return j.take(n) <= len(j.windows)*windowRecords }

// ready reports whether n more records fit into what is mapped, or nothing is left to be mapped. Under the volume's lock.
func (j *journal) ready(n int) bool { return j.fits(n) || len(j.windows)*windowRecords >= j.max }

// ahead is how many records have to fit beyond the last one for the next window not to be wanted yet.
const ahead = windowRecords / 4 // two records each: half a window

// wantsWindow reports that half of the last window is used, and the journal may become longer. Under the volume's lock.
func (j *journal) wantsWindow() bool { return !j.ready(ahead) }

func (j *journal) slot(i int) []byte {
	o := i % windowRecords * recordSize
	return j.windows[i/windowRecords][o : o+recordSize]
}

// append writes a record into the mapping. A page of it that the kernel has let go of and can't read back from the
// disk is a fault, and an error here, not the end of the process.
func (j *journal) append(r *journalRecord) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, fault := p.(interface{ Addr() uintptr }); !fault {
				panic(p)
			}
			err = fmt.Errorf("write to %s: %w: record %d lies on a page that can't be read", j.name, unix.EIO, j.count)
		}
	}()
	r.encode(j.slot(j.count), j.seed+uint32(j.count))
	j.count++
	return nil
}

// distrust has the next opening count what is committed and nothing else, as after a power cut: a sync has
// failed, and what it should have written may be lost while this kernel runs. Best effort, on a disk that fails.
func (j *journal) distrust() {
	j.headerMu.Lock()
	defer j.headerMu.Unlock()
	if j.distrusted = true; j.file != nil {
		writeDistrust(j.file, j.header)
	}
}

const distrustMark = "distrust" // in the place of boot and mount

// finished is the origin of a journal that a recovery has made complete.
var finished = origin{boot: "finished", mount: "finished"}

// recovered reports a journal whose last commit says what a recovery has decided that counts: what others were served
// since is built on that, so nobody may decide it anew.
func recovered(header []byte) bool {
	return le.Uint32(header[56:]) == disk.Checksum([]byte(finished.boot)) && le.Uint32(header[60:]) == disk.Checksum([]byte(finished.mount))
}

// whyDistrusted says why the records of a journal behind its last commit don't count.
func whyDistrusted(header []byte, boot bool) string {
	switch {
	case string(header[56:64]) == distrustMark:
		return "a sync has failed"
	case !boot:
		return "it is of another boot"
	}
	return "it is of another mount"
}

// unflushed says what has become of writes that were answered and not flushed.
func (rp *replay) unflushed() string {
	switch {
	case rp.final:
		return "none: the generation was complete"
	case rp.trusted:
		return "kept"
	}
	return "dropped: " + rp.why
}

func writeDistrust(f vfs.File, header []byte) {
	h := append([]byte(nil), header...)
	copy(h[56:64], distrustMark)
	le.PutUint32(h[508:], disk.Checksum(h[:508]))
	_, _ = f.WriteAt(h, 0)
}

// markEvery is how often the header is told how many records are durable, beside the end of a generation.
var markEvery = time.Second

// mark notes in the header that n records are durable: if they can't be read some day, they were not simply never
// written. Nobody waits for the note, and recovery can do without.
func (j *journal) mark(n int, final bool) {
	if !j.headerMu.TryLock() { // a check reads the file
		return
	}
	defer j.headerMu.Unlock()
	now := time.Now()
	if j.distrusted || !final && now.Sub(j.marked) < markEvery {
		return
	}
	j.marked = now
	h := append([]byte(nil), j.header...)
	setDurable(h, n)
	_, _ = j.file.WriteAt(h, 0)
}

func setDurable(header []byte, n int) {
	le.PutUint64(header[64:], uint64(n))
	le.PutUint32(header[508:], disk.Checksum(header[:508]))
}

// close unmaps and closes; what was appended stays in the page cache. The volume's lock must not be held.
func (j *journal) close() {
	j.growMu.Lock()
	defer j.growMu.Unlock()
	j.headerMu.Lock()
	defer j.headerMu.Unlock()
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
	name      string
	gen       uint64
	records   []journalRecord // without the commits
	final     bool            // the generation was complete
	copied    bool            // the file is a copy of the one that was written
	closing   uint64          // of the header
	contested bool            // whether it is to be trusted is for somebody to say
	trusted   bool            // written through this kernel's page cache: every whole record counts
	why       string          // it is not trusted
	whole     int             // records read whole, commits too
	covered   int             // records that the last commit covers
	short     bool            // the file is shorter than it was made
	last      int             // position behind the last record that is no commit
	raw       []byte          // the file up to the last whole record
	promised  int             // records that the header says were durable
	full      bool            // it ends without room for more
	wasCut    bool            // records that were there are left out
	blind     bool            // there may have been more of them, and nobody can say how many
	mended    *CorruptError   // a header that can be done without
	at        []int           // the position of each of records
	commits   []commit
}

type commit struct {
	at, covers int
	final      bool
	time       time.Time // when it was written; zero: unknown
}

// newCommit makes a commit record of now that covers so many records. Its time is for people: nothing is decided by it.
func newCommit(covers int, now time.Time) journalRecord {
	return journalRecord{kind: recordCommit, sector: uint64(covers), count: uint64(now.UnixNano())}
}

// commitTime is when a commit record was written; zero where it does not say, as those of older versions and of
// recoveries don't.
func (r *journalRecord) commitTime() time.Time {
	if r.count == 0 || r.count > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(0, int64(r.count)).UTC()
}

// cacheTrust says how much of a journal counts: all whole records, or what was committed.
type cacheTrust struct {
	cache     bool // all of it
	contested bool // not all of it, and that may be wrong
	moved     bool // the same for a copy as for the file itself
}

// truster decides how much of a journal counts, by whether it was written in this boot and on this mount.
type truster func(boot, mount bool) cacheTrust

// readJournal reads a journal file and leaves it closed. With an error of damage comes what is good before it.
func readJournal(fs vfs.FS, name string, store, volume uuid.UUID, gen uint64, trust truster, o origin) (*replay, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := disk.ReadContent(f)
	if err != nil {
		return nil, err
	}
	id, err := f.Identity()
	if err != nil {
		return nil, err
	}
	data := c.Data
	rp := &replay{name: name, gen: gen, short: len(data) < journalHeader+windowSize}
	if len(data) < journalHeader {
		return rp, nil
	}
	want := encodeJournalHeader(store, volume, gen, o)
	seed := disk.Checksum(want[:56])
	if disk.Checksum(data[:508]) == le.Uint32(data[508:]) && string(data[:56]) == string(want[:56]) {
		boot, mount := le.Uint32(data[56:]) == le.Uint32(want[56:]), le.Uint32(data[60:]) == le.Uint32(want[60:])
		if rp.know(data[:512], id, trust(boot, mount)); !rp.trusted {
			rp.why = whyDistrusted(data, boot)
		}
		err = rp.scan(&c, seed)
		rp.raw = data[:journalHeader+rp.whole*recordSize]
		n := min(le.Uint64(data[64:]), 1<<40)
		if rp.promised = int(n); err == nil && uint64(rp.whole) < n {
			err = &CorruptError{
				File: name, Offset: int64(len(rp.raw)), Object: "journal record",
				Err: fmt.Errorf("the header says that %d records were durable, %d can be read", n, rp.whole),
			}
		}
		return rp, err
	}
	// Who wrote the file is known from its name, but not through which page cache: what is committed counts in any
	// case. If that is all, nothing is lost.
	rp.why = "its header is damaged"
	bad := &CorruptError{File: name, Object: "journal header", Err: c.Cause("checksum, or the header of another file")}
	copy(data, encodeJournalHeader(store, volume, gen, origin{boot: "damaged", mount: "damaged"}))
	err = rp.scan(&c, seed)
	rp.raw = data[:journalHeader+rp.whole*recordSize]
	if rp.mended = bad; err == nil && rp.covered < rp.last {
		err = bad
	}
	return rp, err
}

// know notes what a good header, and the file that it was found in, say of the records.
func (rp *replay) know(header []byte, file vfs.Identity, t cacheTrust) {
	rp.closing = journalClosing(header)
	if w := journalWriter(header); w.Known() && file.Known() && !t.moved {
		rp.copied = !w.Same(file)
	}
	rp.trusted = t.cache && !rp.copied && string(header[56:64]) != distrustMark && !recovered(header)
	rp.contested = t.contested && !rp.copied
}

func (rp *replay) scan(c *disk.Content, seed uint32) error {
	err := rp.read(c, seed)
	rp.cut(rp.whole)
	return err
}

// read takes the records up to the first that is not whole.
func (rp *replay) read(c *disk.Content, seed uint32) error {
	data := c.Data
	for off := journalHeader; off+recordSize <= len(data); off += recordSize {
		bad := &CorruptError{File: rp.name, Offset: int64(off), Object: "journal record"}
		r, err := decodeRecord(data[off:], seed+uint32(rp.whole))
		if errors.Is(err, errTorn) {
			bad.Err = c.Cause(errTorn.Error())
			if at := c.BadFrom(int64(off)); at >= 0 && at <= int64(off) || rp.damaged(data[off:], seed) {
				return bad
			}
			return nil
		}
		if err == nil && r.kind == recordCommit && r.sector > uint64(rp.whole) {
			err = fmt.Errorf("it covers %d records, and is number %d", r.sector, rp.whole)
		}
		if bad.Err = err; err != nil {
			return bad
		}
		if r.kind == recordCommit {
			rp.commits = append(rp.commits, commit{rp.whole, int(r.sector), r.flags&flagFinal != 0, r.commitTime()})
		} else {
			rp.records = append(rp.records, r)
			rp.at = append(rp.at, rp.whole)
		}
		rp.whole++
	}
	rp.full = true
	return nil
}

// cut leaves of the journal what is before position n, and counts in it.
func (rp *replay) cut(n int) {
	rp.wasCut = rp.wasCut || n < rp.whole
	rp.whole, rp.covered, rp.final, rp.last = n, 0, false, 0
	rp.raw = rp.raw[:min(len(rp.raw), journalHeader+n*recordSize)]
	for _, c := range rp.commits {
		if c.at < n {
			rp.covered, rp.final = c.covers, rp.final || c.final
		}
	}
	counts := rp.covered
	if rp.trusted {
		counts = n
	}
	keep := 0
	for _, at := range rp.at {
		if at < n {
			rp.last = at + 1
		}
		if at < min(n, counts) {
			keep++
		}
	}
	rp.records = rp.records[:keep]
}

// span is the sectors [from, to) of a volume.
type span struct{ from, to uint64 }

// behind gives the sectors that the records of a journal speak of from position n on, as far as they can be read,
// and how many can't. upto is how many there were at least.
func behind(c *disk.Content, n, upto int, seed uint32) (ranges []span, unknown int) {
	blank := 0
	defer func() {
		if last := (len(c.Data) - journalHeader) / recordSize; upto > last { // cut off
			unknown += upto - max(last, n)
		}
	}()
	for i := n; journalHeader+(i+1)*recordSize <= len(c.Data); i++ {
		off := journalHeader + i*recordSize
		b := c.Data[off : off+recordSize]
		r, err := decodeRecord(b, seed+uint32(i))
		if err != nil {
			if at := c.BadFrom(int64(off)); i < upto || !disk.AllZero(b) || at >= 0 && at <= int64(off) {
				unknown, blank = unknown+1+blank, 0
			} else {
				blank++ // one that was wiped out if others follow, else never written
			}
			continue
		}
		unknown, blank = unknown+blank, 0
		if r.kind != recordCommit && r.count > 0 && r.sector <= ^uint64(0)-r.count {
			ranges = append(ranges, span{r.sector, r.sector + r.count})
		}
	}
	return ranges, unknown
}

// damaged tells a record that has become unreadable from one that was never written whole: what lies behind it,
// in rest, was written later. Without a power cut anything is damage. After one, two commits are: the second is only
// written when the first, and all before it, are durable.
func (rp *replay) damaged(rest []byte, seed uint32) bool {
	if rp.trusted && !disk.AllZero(rest[recordSize:]) {
		return true
	}
	commits := 0
	for i := 1; (i+1)*recordSize <= len(rest); i++ {
		r, err := decodeRecord(rest[i*recordSize:], seed+uint32(rp.whole+i))
		if err != nil {
			continue
		}
		if r.kind == recordCommit {
			commits++
		}
		if commits == 2 {
			return true
		}
	}
	return false
}

// ended reports a journal that ends without the room that one always has. After a power cut the size of a file that has
// grown may be lost while its records are not, until a commit behind is durable: the second is only written then.
func (rp *replay) ended() bool {
	behind := 0
	for _, c := range rp.commits {
		if c.at >= rp.whole-commitHeadroom {
			behind++
		}
	}
	return rp.full && (rp.trusted || behind > 1)
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
	// Not the zeroes between header and records: where the file system has smaller blocks they are a hole, and the disk
	// may be full.
	id, err := f.Identity()
	if err != nil {
		return err
	}
	// A final commit that covers less is of a recovery that did not trust the cache, and was killed. Nothing was
	// built on that, and this one may know better.
	complete := rp.final && (rp.trusted && rp.covered >= rp.last || rp.covered+1 >= rp.whole)
	if complete { // else the old header stays until the commit is there: another opening must know what this one did
		setJournalWriter(rp.raw[:512], id)
		setJournalClosing(rp.raw[:512], 0)
	}
	if _, err := f.WriteAt(rp.raw[:512], 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(rp.raw[journalHeader:], journalHeader); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	end := int64(len(rp.raw))
	if least := max(journalHeader+windowSize, end+2*recordSize); size < least { // or the next opening takes it for damaged
		if err := f.Truncate(least); err != nil {
			return err
		}
		size = least
	}
	if complete {
		return f.Datasync()
	}
	if err := wipe(f, end, size); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverWiped)
	h := encodeJournalHeader(store, volume, rp.gen, finished)
	setDurable(h, rp.whole+1)
	setJournalWriter(h, id)
	covers := rp.covered
	if rp.trusted {
		covers = rp.whole
	}
	b := make([]byte, recordSize)
	r := journalRecord{kind: recordCommit, flags: flagFinal, sector: uint64(covers)}
	r.encode(b, disk.Checksum(h[:56])+uint32(rp.whole))
	// The commit goes first: without it, the next recovery must come to the same decision as this one.
	if _, err := f.WriteAt(b, end); err != nil {
		return err
	}
	if err := f.Datasync(); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverCommit)
	if _, err := f.WriteAt(h, 0); err != nil {
		return err
	}
	return f.Datasync()
}

// distrust is what journal.distrust is, for one that is replayed.
func (rp *replay) distrust(fs vfs.FS) {
	if !rp.trusted {
		return
	}
	rp.trusted, rp.why = false, "a sync has failed"
	rp.cut(rp.whole)
	f, err := fs.Open(rp.name)
	if err != nil {
		return
	}
	defer f.Close()
	writeDistrust(f, rp.raw[:512])
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
