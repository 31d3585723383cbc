package segment

import (
	"errors"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// File is a segment whose file is open.
//
// Its methods are safe for concurrent use. There are two locks. listMu serialises changes of the
// header, the object log and the footer; it is held over I/O. mu guards the same state in memory;
// it is taken after listMu, never held over I/O, and suffices to read. Methods say if they hold
// listMu over I/O. The exported fields belong to the engine, and have the stated owners.
type File struct {
	ID       uint32
	Data     vfs.File // bytes; readers need no lock. Sync makes them durable, not Data.Datasync
	Capacity int64    // bytes; where the footer goes

	// Owned by the appender: the volume whose append segment this is, under its lock, or the
	// settler.
	Next int64 // offset in bytes of the next slot
	Full bool  // nothing more is handed out

	Unsettled atomic.Int64          // bytes handed out whose layers have not settled
	Unsealed  atomic.Pointer[error] // why the segment, which has no appender any more, could not be sealed
	Used      atomic.Int64          // bytes that the sealed segment occupies on disk; 0: not known
	Dirty     bool                  // in its volume's list of segments to sync; under the volume's lock
	Ended     bool                  // being sealed or retired; under the volume's lock
	Inherited bool                  // a former process created it; does not change
	Closing   uint64                // see Stamp; changes under listMu, while the store opens and closes only

	listMu lockorder.IOMutex[lockorder.SegmentRecord]
	mu     lockorder.Mutex[lockorder.SegmentState]

	// The object list. Changes under listMu and mu, may be read under either.
	objectLog *record.Log       // nil if there are no objects yet, and once sealed
	objects   map[uint32]Object // of an open segment, by block
	footer    int64             // length of the footer in bytes; 0 while the segment is open
	chunks    int64             // bytes of chunks
	others    int64             // bytes of other objects
	vacated   bool              // see Vacate
	version   uint64            // of the object list: grows when objects are taken out of it
	shortened bool              // the object log is a shortened one, which counts beside an older footer; see Shrink
	replaced  int               // the number of shortenings in the footer that a shortened object log replaces
	uncovered bool              // the footer is gone; under listMu
	logged    int64             // the known length in bytes that the object log had; see SetLogged

	unsynced error         // the first sync that has failed; under mu
	syncing  int           // overlapping calls of Sync; under mu
	synced   chan struct{} // closed when these have ended; nil: none waits; under mu

	damaged  error              // why the object list cannot be relied on, or nil; under mu
	repaired *disk.CorruptError // what Open found and repaired; does not change afterwards
	outlived bool               // the object log is still there, although the footer names all its objects; does not change afterwards
}

// Create creates an empty segment. When Create returns, the file is durable except for its name,
// which SyncDir of Dir makes durable. After an error there is no file.
func Create(fs vfs.FS, id uint32, capacity int64, store uuid.UUID) (*File, error) {
	f, err := fs.Create(Name(id))
	if err != nil {
		return nil, err
	}
	g := &File{ID: id, Data: f, Capacity: capacity, Next: disk.BlockSize}
	if err = f.Truncate(capacity); err == nil {
		if err = g.writeHeader(store, 0); err == nil {
			err = f.Datasync()
		}
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(Name(id))
		return nil, err
	}
	return g, nil
}

// Close closes the files. No other method may be called afterwards.
func (g *File) Close() error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	var err error
	if g.objectLog != nil {
		err = g.objectLog.Close()
	}
	return errors.Join(err, g.Data.Close())
}

// writeHeader writes the header of a segment with a footer of that many bytes.
// REQUIRES: listMu is held, or g is not shared yet.
func (g *File) writeHeader(store uuid.UUID, footer int64) error {
	h := Header{g.ID, store, g.Capacity, footer, g.Closing}
	_, err := g.Data.WriteAt(h.Encode(), 0)
	return err
}

// Stamp notes in the header of an open segment that the store was closed, or with 0 that it is
// open. The journals that refer to the segment get the same number: files whose numbers are equal
// were copied while the store was closed. A segment that was sealed, or is or was damaged, keeps
// its header. Held over I/O: listMu.
func (g *File) Stamp(store uuid.UUID, closing uint64) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	g.mu.Lock()
	fixed := g.footer > 0 || g.vacated || g.damaged != nil || g.repaired != nil
	g.mu.Unlock()
	if fixed || g.Closing == closing {
		return nil
	}
	g.Closing = closing
	return g.writeHeader(store, g.footer)
}

// Seal writes the footer, durably, and makes the segment immutable. The object log is removed last:
// while it exists it counts, and half a footer does not. After disk.ErrNoSpace and disk.Transient
// errors the segment is open as before. Held over I/O: listMu.
func (g *File) Seal(fs vfs.FS, store uuid.UUID) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	if g.footer > 0 {
		return nil
	}
	if err := g.uncover(fs, store); err != nil {
		return err
	}
	footer := encodeFooter(g.ID, inOrder(g.objects), g.shortenings())
	if _, err := g.Data.WriteAt(footer, g.Capacity); err != nil {
		return err
	}
	failpoint.Here(failpoint.SealFooter)
	length := int64(len(footer))
	err := g.writeHeader(store, length)
	if err == nil {
		err = g.Sync()
	}
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.SealHeader)
	log := g.objectLog
	g.mu.Lock()
	g.footer, g.shortened, g.uncovered = length, false, false
	if log != nil {
		g.logged = max(g.logged, log.Size())
	}
	g.mu.Unlock()
	if log == nil {
		return nil
	}
	if err := log.Close(); err != nil {
		return err
	}
	g.mu.Lock()
	g.objectLog, g.objects = nil, nil
	g.mu.Unlock()
	if err := fs.Remove(ObjectLogName(g.ID)); err != nil {
		return err
	}
	return fs.SyncDir(Dir)
}

// Reseal writes the footer and the header of a sealed segment once more, durably. What Open has
// read may be only in the page cache, as clean pages: the process that wrote it may have been
// killed after its sync failed.
func (g *File) Reseal(store uuid.UUID) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	b := make([]byte, g.footer)
	if n, err := g.Data.ReadAt(b, g.Capacity); n < len(b) {
		return err
	}
	if _, err := g.Data.WriteAt(b, g.Capacity); err != nil {
		return err
	}
	if err := g.writeHeader(store, g.footer); err != nil {
		return err
	}
	return g.Sync()
}

// ErrListChanged is returned by ReadFooter if objects were removed from the segment's list
// meanwhile, or the segment is not sealed. The caller asks for the list again.
var ErrListChanged = errors.New("the segment's object list has changed")

// ReadFooter reads and checks the footer of a sealed segment. The error is ErrListChanged, or a
// disk.CorruptError.
func (g *File) ReadFooter() (Entries, error) { return g.readFooterInto(nil) }

// readFooterInto is ReadFooter into room, if that is long enough, or a buffer of its own.
func (g *File) readFooterInto(room []byte) (Entries, error) {
	footer, version := g.list()
	if footer == 0 {
		return nil, ErrListChanged
	}
	if footer > int64(len(room)) {
		room = make([]byte, footer)
	}
	all, err := g.readFooter(room[:footer])
	if _, now := g.list(); now != version {
		return nil, ErrListChanged // what was read may be of two footers
	}
	return all, err
}

// list returns the length of the footer in bytes, 0 if the segment is not sealed, and the version
// of the object list.
func (g *File) list() (footer int64, version uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.footer, g.version
}

// Version returns the version of the object list, which grows when objects are taken out of it.
func (g *File) Version() uint64 {
	_, version := g.list()
	return version
}

// readFooter reads and checks a footer that is as long as b, into b.
func (g *File) readFooter(b []byte) (Entries, error) {
	bad := func(err error) error {
		return &disk.CorruptError{File: Name(g.ID), Offset: g.Capacity, Object: "segment footer", Err: err}
	}
	if n, err := g.Data.ReadAt(b, g.Capacity); n < len(b) {
		return nil, bad(err)
	}
	all, err := decodeFooter(b, g.ID)
	if err != nil {
		return nil, bad(err)
	}
	return all, nil
}
