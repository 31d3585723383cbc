package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/failpoint"
	"varve/objstore/internal/lockorder"
	"varve/objstore/vfs"
)

const (
	// WindowSize is how many bytes are allocated and mapped at a time.
	WindowSize = 1 << 20
	// WindowRecords is how many records that are.
	WindowRecords = WindowSize / RecordSize

	// commitHeadroom is how many records are kept free for commits that follow no record.
	commitHeadroom = 256
	// MinRecords is the least that a journal may be told to hold.
	MinRecords = 4 * commitHeadroom
	// Ahead is how many records have to fit beyond the last one for the next window not to be
	// wanted yet.
	Ahead = WindowRecords / 4 // two records each: half a window
)

// File is the journal of a generation: one that is written, or one that a recovery has finished,
// which is closed from the start.
//
// Its owner's lock is the lock of the volume. Methods that need it say so; those that block must be
// called without it, unless they say otherwise.
type File struct {
	id     ID
	origin Origin
	file   vfs.File // nil once closed; changes under growMu and headerMu
	seed   uint32

	linked atomic.Bool // its name is durable, and those of the generations before it

	headerMu   lockorder.IOMutex[lockorder.JournalHeader] // one write of the header at a time; held over I/O
	header     header
	marked     time.Time // when the header was last written
	distrusted bool

	growMu lockorder.IOMutex[lockorder.JournalWindow] // one extension at a time; held over I/O, taken before the owner's lock

	// Under the owner's lock.
	windows   [][]byte // changes under growMu too
	count     int      // records written
	committed int      // records that the last durable commit covers
	final     bool     // that commit marks the generation as complete
	max       int      // records it may hold
	pages     prefaulted
}

// Create creates an empty journal of at most maxRecords, with room for the first window. Its name
// is durable after Link, and nothing in it is before: a generation of which nothing was committed
// may be missing after a power cut, if it is the newest.
func Create(fs vfs.FS, id ID, o Origin, maxRecords int) (*File, error) {
	name := id.Name()
	draft := name + DraftSuffix
	if err := fs.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := fs.Create(draft)
	if err != nil {
		return nil, err
	}
	h := newHeader(id, o)
	j := &File{id: id, origin: o, file: f, header: h, seed: h.seed(), max: maxRecords, pages: prefaulted{off: fs.InMemory()}}
	failpoint.Here(failpoint.JournalFile)
	inode, err := f.Identity()
	if h.setWriter(inode); err == nil {
		_, err = f.WriteAt(h, 0)
	}
	if err == nil {
		err = j.Extend(new(sync.Mutex), 1) // nothing else uses the journal yet
	}
	if err == nil {
		err = f.Datasync()
		j.PrefaultNext(new(sync.Mutex))
	}
	if err == nil {
		err = fs.Rename(draft, name)
		failpoint.Here(failpoint.JournalNamed)
	}
	if err != nil {
		j.Close()
		_ = fs.Remove(draft)
		_ = fs.Remove(name)
		return nil, fmt.Errorf("make journal: %w", err)
	}
	return j, nil
}

// Name is the path of the file, relative to the store.
func (j *File) Name() string { return j.id.Name() }

// Gen is the generation that the journal records.
func (j *File) Gen() uint64 { return j.id.Gen }

// Link makes the name durable. It comes before the journal's first commit, and before there is a
// next generation: that would look like one that has lost a former one.
func (j *File) Link(fs vfs.FS) error {
	if j.linked.Load() {
		return nil
	}
	if err := fs.SyncDir(Dir); err != nil {
		return err
	}
	j.linked.Store(true)
	return nil
}

// Extend allocates and maps windows until n more records fit into what is mapped, all that the
// journal may hold is mapped, or it is closed. It blocks; mu is the owner's lock, which it takes
// only to look, and to add a window.
func (j *File) Extend(mu sync.Locker, n int) error {
	j.growMu.Lock()
	defer j.growMu.Unlock()
	for j.file != nil {
		mu.Lock()
		enough, mapped := j.Ready(n), int64(len(j.windows))
		mu.Unlock()
		if enough {
			return nil
		}
		off := headerBlock + mapped*WindowSize
		if err := j.file.Allocate(off, WindowSize); err != nil {
			return err
		}
		w, err := j.file.Map(off, WindowSize)
		if err != nil {
			return err
		}
		mu.Lock()
		j.windows = append(j.windows, w)
		mu.Unlock()
	}
	return nil
}

// reach is how far n more records reach, each with a commit of its own, beside the headroom.
func (j *File) reach(n int) int { return j.count + 2*n + commitHeadroom }

// Full reports that the journal can't hold n more records: the generation must be frozen. Under the
// owner's lock.
func (j *File) Full(n int) bool { return j.reach(n) > j.max }

// Fits reports that n more records fit into what is mapped. Under the owner's lock.
func (j *File) Fits(n int) bool { return j.reach(n) <= len(j.windows)*WindowRecords }

// Ready reports that n more records fit into what is mapped, or that nothing is left to be mapped.
// Under the owner's lock.
func (j *File) Ready(n int) bool { return j.Fits(n) || len(j.windows)*WindowRecords >= j.max }

// WantsWindow reports that half of the last window is used, and that the journal may become longer.
// Under the owner's lock.
func (j *File) WantsWindow() bool { return !j.Ready(Ahead) }

// Count is how many records were written. Under the owner's lock.
func (j *File) Count() int { return j.count }

// Max is how many records the journal may hold.
func (j *File) Max() int { return j.max }

func (j *File) slot(i int) []byte {
	o := i % WindowRecords * RecordSize
	return j.windows[i/WindowRecords][o : o+RecordSize]
}

// Append writes a record into the mapping, for which there must be room (Fits). A page that the
// kernel has let go of and can't read back from the disk is an error here, and not the end of the
// process. Under the owner's lock; it does not block, but for such a page.
func (j *File) Append(r *Record) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, fault := p.(interface{ Addr() uintptr }); !fault {
				panic(p)
			}
			err = fmt.Errorf("write to %s: %w: record %d lies on a page that can't be read", j.Name(), unix.EIO, j.count)
		}
	}()
	r.encode(j.slot(j.count), j.seed+uint32(j.count))
	j.count++
	return nil
}

// Uncommitted reports records without a durable commit, or, of a frozen generation, that the commit
// that ends it is missing. Under the owner's lock.
func (j *File) Uncommitted(frozen bool) bool {
	return j.file != nil && (j.count > j.committed || frozen && !j.final)
}

// Sync makes the records durable. After an error it is not known which of them are.
func (j *File) Sync() error { return j.file.Datasync() }

// Committed notes that a commit of the first n records is durable. Under the owner's lock.
func (j *File) Committed(n int, final bool) {
	// The commit itself counts as covered, so that a later flush finds nothing to do.
	j.committed, j.final = max(j.committed, n), final
	if j.count == n+1 {
		j.committed = j.count
	}
}

// markEvery is how often the header is told how many records are durable, beside the end of a
// generation.
const markEvery = time.Second

// Mark notes in the header that n records are durable: if they can't be read some day, they were
// not simply never written. Nothing waits for the note, and recovery can do without it. Last: it is
// not put off to the next call.
func (j *File) Mark(n int, last bool) {
	if !j.headerMu.TryLock() { // a reader has it
		return
	}
	defer j.headerMu.Unlock()
	now := time.Now()
	if j.distrusted || j.file == nil || !last && now.Sub(j.marked) < markEvery {
		return
	}
	j.marked = now
	h := append(header(nil), j.header...)
	h.setDurable(n)
	_, _ = j.file.WriteAt(h, 0)
}

// MarkCommitted is Mark for all that is committed. Under the owner's lock, but it writes to the
// file.
func (j *File) MarkCommitted() { j.Mark(j.committed, true) }

// Distrust has the next opening count what is committed and nothing else, as after a power cut: a
// sync has failed, and what it should have written may be lost while this kernel runs. Best effort,
// on a disk that fails.
func (j *File) Distrust() {
	j.headerMu.Lock()
	defer j.headerMu.Unlock()
	if j.distrusted = true; j.file != nil {
		writeDistrust(j.file, j.header)
	}
}

// Reread reads the journal, which may be written meanwhile, as if all its records counted.
func (j *File) Reread(fs vfs.FS) (*Replay, error) {
	j.headerMu.Lock() // a header that is being written would be taken for a damaged one
	defer j.headerMu.Unlock()
	return Read(fs, j.id, j.origin, func(bool, bool) Trust { return Trust{Cache: true, Moved: true} })
}

// Close unmaps and closes the file; what was appended stays in the page cache. The owner's lock
// must not be held if Extend may run.
func (j *File) Close() {
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

// Closed reports whether the file is closed.
func (j *File) Closed() bool {
	j.headerMu.Lock()
	defer j.headerMu.Unlock()
	return j.file == nil
}
