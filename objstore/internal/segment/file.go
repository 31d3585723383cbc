package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// A segment is a file of data, 4 KiB aligned, that is only ever appended to.
//
//	   0    header, one block
//	4096    data: chunks where they were first written, objects that settling copied, tree nodes
//	cap     footer, once sealed: the objects, then the trailer
//
// The footer lies at the segment's capacity, behind all space that was ever handed out: a write that a
// killed process left in flight can't reach it. Between the data's end and the footer the file is a hole.
//
//	header                                trailer, the last 64 bytes of the footer
//	  0  magic "varveSEG"                   0  magic "varveFTR"
//	  8  version u32                        8  version u32
//	 12  segment ID u32                    12  segment ID u32
//	 16  store UUID, 16 bytes              16  objects u32
//	 32  capacity u64, bytes               20  CRC-32C of the objects u32
//	 40  footer length u64, bytes;         24  chunk bytes u64
//	     0 until the segment is sealed     32  other objects' bytes u64
//	 48  closing u64: as of a journal      40  zeroes
//	 56  zeroes
//	508  CRC-32C of bytes 0 to 507         60  CRC-32C of bytes 0 to 59
//
//	object, 48 bytes, in order of block
//	  0  hash, 32 bytes
//	 32  block u32: offset in the file, in blocks of 4096 bytes
//	 36  length u32, bytes
//	 40  kind u8
//	 41  zeroes
//
// Until a segment is sealed, its objects stand in its directory, a record log of the same entries; they
// are written there after the bytes that they describe are durable.
const (
	headerMagic  = "varveSEG"
	trailerMagic = "varveFTR"
	HeaderSize   = 512
	TrailerSize  = 64
	ObjectSize   = 48
	Dir          = "segments"
)

// object is one entry of a segment's footer or directory.
type Object struct {
	Hash   merkle.Hash
	Block  uint32
	Length uint32
	Kind   merkle.Kind
}

func (o *Object) encode(b []byte) {
	copy(b, o.Hash[:])
	le.PutUint32(b[32:], o.Block)
	le.PutUint32(b[36:], o.Length)
	b[40] = byte(o.Kind)
	clear(b[41:ObjectSize])
}

func decodeObject(b []byte) (Object, error) {
	o := Object{Hash: merkle.Hash(b[:32]), Block: le.Uint32(b[32:]), Length: le.Uint32(b[36:]), Kind: merkle.Kind(b[40])}
	if !o.Kind.Valid() || o.Block == 0 || o.Length == 0 || o.Length > disk.MaxChunkSize || o.Hash.IsZero() {
		return o, fmt.Errorf("%v at block %d of %d bytes", o.Kind, o.Block, o.Length)
	}
	return o, nil
}

func EncodeObjects(objs []Object) []byte {
	b := make([]byte, len(objs)*ObjectSize)
	for i := range objs {
		objs[i].encode(b[i*ObjectSize:])
	}
	return b
}

func DecodeObjects(b []byte) ([]Object, error) {
	if len(b)%ObjectSize != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of objects", len(b))
	}
	objs := make([]Object, len(b)/ObjectSize)
	for i := range objs {
		o, err := decodeObject(b[i*ObjectSize:])
		if err != nil {
			return nil, err
		}
		objs[i] = o
	}
	return objs, nil
}

// segment is an open file of the store. Its life: open (space is handed out, or may hold unsettled writes),
// sealed (immutable), retired (unlinked once no reader has it pinned).
type File struct {
	ID       uint32
	Data     vfs.File
	Capacity int64 // bytes, where the footer goes

	// Owned by whoever appends: a volume under its lock, or the settler.
	Next int64 // bytes, where the next slot begins
	Full bool  // nothing more is handed out

	Closing uint64 // of the header; changes while the store opens and closes

	Unsettled atomic.Int64 // bytes handed out whose layers have not settled
	Used      atomic.Int64 // bytes that the sealed segment occupies; 0: not asked yet
	Dirty     bool         // in its volume's list of segments to sync; under the volume's lock
	Inherited bool         // made by a former process
	Ended     bool         // being sealed or retired; under the volume's lock

	recordMu sync.Mutex // one change of the header, the directory or the footer at a time; held over I/O, taken before mu
	mu       sync.Mutex // never held over I/O

	objectLog *record.Log        // nil once sealed, or while there are no objects; changes under both locks
	objects   map[uint32]Object  // by block; while open; changes under both locks
	footer    int64              // footer length in bytes; 0 while open; changes under both locks
	damaged   error              // header, footer or directory unreadable: objects are told by their content
	mended    *disk.CorruptError // the header or the directory, when the segment was opened
	outlived  bool               // its directory is still there, and does not count any more: the footer names all
	chunks    int64              // bytes of chunk objects
	nodes     int64              // bytes of other objects

	Scanned   sync.Once
	ByContent map[uint64]uint32 // of a damaged segment: the beginning of a hash, and the block that may have it
}

// isSealed reports whether the segment is immutable.
func (g *File) Sealed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.footer > 0
}

// isDamaged reports that nobody knows all that is in the segment: it is neither sealed, retired nor punched.
func (g *File) Damaged() bool { return g.Damage() != nil }

// damage returns why the segment's record cannot be relied on, or nil.
func (g *File) Damage() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.damaged
}

// setDamage notes why the segment's record cannot be relied on, and reports whether that is news.
func (g *File) SetDamage(err error) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	first = g.damaged == nil
	g.damaged = err
	return first
}

// footerSize returns the length of the footer in bytes, 0 of an open segment.
func (g *File) FooterSize() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.footer
}

// repaired returns the damage that opening the segment found and repaired, or nil.
func (g *File) Repaired() *disk.CorruptError { return g.mended }

// stored returns the bytes of the segment's objects: of chunks, and of all others.
func (g *File) Stored() (chunks, others int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.chunks, g.nodes
}

// hasObjectLog reports whether the segment has an object log that counts.
func (g *File) HasObjectLog() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.objectLog != nil
}

// objectLogSize returns the length of the object log in bytes, 0 if there is none. It waits while the record is written.
func (g *File) ObjectLogSize() int64 {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	if g.objectLog == nil {
		return 0
	}
	return g.objectLog.Size()
}

// blank reports whether the segment holds no object.
func (g *File) Blank() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.objects) == 0 && g.objectLog == nil
}

// recorded is what the segment's record says of one block: the object there, if the segment is open; that it is sealed, so
// that the footer says so; that the record cannot be relied on.
func (g *File) Recorded(block uint32) (o Object, ok, sealed bool, damage error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok = g.objects[block]
	return o, ok, g.footer > 0, g.damaged
}

// eachOpen calls f for the objects of an open segment, in no order. f must not call methods of the segment.
func (g *File) EachOpen(f func(Object)) (sealed bool, damage error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.objects {
		f(o)
	}
	return g.footer > 0, g.damaged
}

// openObjects returns the objects of an open segment in order of block; none of a sealed one.
func (g *File) OpenObjects() []Object {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sorted()
}

// allObjects returns the segment's record, in order of block.
func (g *File) Objects() ([]Object, error) {
	g.mu.Lock()
	if g.footer == 0 {
		defer g.mu.Unlock()
		return g.sorted(), nil
	}
	g.mu.Unlock()
	all, err := g.ReadFooter()
	if err != nil {
		return nil, err
	}
	return DecodeObjects(all)
}

// close closes the files. No method may be called after it.
func (g *File) Close() error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	var err error
	if g.objectLog != nil {
		err = g.objectLog.Close()
	}
	return errors.Join(err, g.Data.Close())
}

// removeObjectLog removes the log of a segment without objects, durably.
func (g *File) RemoveObjectLog(fs vfs.FS) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	if g.objectLog == nil {
		return nil
	}
	if err := g.objectLog.Close(); err != nil {
		return err
	}
	g.mu.Lock()
	g.objectLog = nil
	g.mu.Unlock()
	if err := fs.Remove(ObjectLogName(g.ID)); err != nil {
		return err
	}
	return fs.SyncDir(Dir)
}

// check calls found for what is wrong with the header, and with the footer or the object log. named is called for each file
// that the segment has by the store's account, while none of them can come or go. errRetired: the segment has been closed.
func (g *File) Check(store uuid.UUID, named func(file string), found func(error)) error {
	g.recordMu.Lock() // header, footer and log are written under it
	defer g.recordMu.Unlock()
	named(Name(g.ID))
	if g.objectLog != nil {
		named(ObjectLogName(g.ID))
	}
	b := make([]byte, HeaderSize)
	n, err := g.Data.ReadAt(b, 0)
	if n == len(b) {
		_, err = DecodeHeader(b, g.ID, store)
	}
	if errors.Is(err, os.ErrClosed) {
		return os.ErrClosed
	}
	if err != nil {
		found(disk.AsCorrupt(err, Name(g.ID), 0, "segment header"))
	}
	switch {
	case g.footer > 0:
		if _, err := g.ReadFooter(); err != nil {
			found(err)
		}
	case g.objectLog != nil:
		if err := g.objectLog.VerifyCopy(0); err != nil {
			found(err)
		}
	}
	return nil
}

// parseSegmentName gives the segment that a file in segmentDir belongs to, and whether it is its directory.
func ParseName(name string) (id uint32, dir, ok bool) {
	if _, err := fmt.Sscanf(name, "%08x.", &id); err != nil || id == 0 {
		return 0, false, false
	}
	switch name {
	case path.Base(Name(id)):
		return id, false, true
	case path.Base(ObjectLogName(id)):
		return id, true, true
	}
	return 0, false, false
}

func Name(id uint32) string          { return fmt.Sprintf("%s/%08x.seg", Dir, id) }
func ObjectLogName(id uint32) string { return fmt.Sprintf("%s/%08x.dir", Dir, id) }

// dirID is the ID of a segment's directory.
func ObjectLogID(store uuid.UUID, segment uint32) record.ID {
	return record.ID{Kind: record.Directory, Store: store, Number: uint64(segment)}
}

// segmentHeader is the first block of a segment.
type Header struct {
	ID       uint32
	Store    uuid.UUID
	Capacity int64  // bytes, where the footer goes
	Footer   int64  // length in bytes; 0 until the segment is sealed
	Closing  uint64 // of a store that was closed; 0: it is open, or was killed
}

func (h *Header) Encode() []byte {
	b := make([]byte, HeaderSize)
	copy(b, headerMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], h.ID)
	copy(b[16:], h.Store[:])
	le.PutUint64(b[32:], uint64(h.Capacity))
	le.PutUint64(b[40:], uint64(h.Footer))
	le.PutUint64(b[48:], h.Closing)
	le.PutUint32(b[508:], disk.Checksum(b[:508]))
	return b
}

// decodeSegmentHeader decodes the header of segment id of a store.
func DecodeHeader(b []byte, id uint32, store uuid.UUID) (Header, error) {
	switch {
	case len(b) < HeaderSize:
		return Header{}, fmt.Errorf("truncated to %d bytes", len(b))
	case string(b[:8]) != headerMagic:
		return Header{}, errors.New("no segment magic")
	case disk.Checksum(b[:508]) != le.Uint32(b[508:]):
		return Header{}, errors.New("checksum of the header")
	case le.Uint32(b[8:]) != disk.Version:
		return Header{}, fmt.Errorf("%w: segment version %d", disk.ErrVersion, le.Uint32(b[8:]))
	case le.Uint32(b[12:]) != id:
		return Header{}, fmt.Errorf("it is segment %08x", le.Uint32(b[12:]))
	case !bytes.Equal(b[16:32], store[:]):
		return Header{}, fmt.Errorf("it is of store %v", uuid.UUID(b[16:32]))
	}
	h := Header{
		ID: id, Store: store,
		Capacity: int64(le.Uint64(b[32:])), Footer: int64(le.Uint64(b[40:])), Closing: le.Uint64(b[48:]),
	}
	if h.Capacity < disk.BlockSize || h.Capacity%disk.BlockSize != 0 || h.Capacity > disk.BlockSize<<32 || h.Footer < 0 || h.Footer > 1<<32 {
		return Header{}, fmt.Errorf("capacity %d and footer length %d bytes", h.Capacity, h.Footer)
	}
	return h, nil
}

// writeHeader writes the header of a segment with a footer of so many bytes.
func (g *File) writeHeader(store uuid.UUID, footer int64) error {
	h := Header{g.ID, store, g.Capacity, footer, g.Closing}
	_, err := g.Data.WriteAt(h.Encode(), 0)
	return err
}

// createSegment makes an empty segment, durable but for its directory entry.
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

// openSegment opens a segment that the store finds in its directory. A segment that was not sealed is full:
// its open end may hold writes that nobody answered. What its header, its trailer or its directory does not tell
// any more is found out from the others, or by looking at the content.
func Open(fs vfs.FS, id uint32, store uuid.UUID, hasDir bool) (*File, error) {
	name := Name(id)
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, HeaderSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) && !disk.Unreadable(err) {
		f.Close()
		return nil, err
	}
	g := &File{ID: id, Data: f, Full: true, Inherited: true}
	if err == nil || errors.Is(err, io.EOF) {
		var h Header
		h, err = DecodeHeader(b[:n], id, store)
		g.Capacity, g.footer, g.Closing = h.Capacity, h.Footer, h.Closing
	}
	if err != nil {
		bad := &disk.CorruptError{File: name, Object: "segment header", Err: err}
		if errors.Is(err, disk.ErrVersion) {
			f.Close()
			return nil, bad
		}
		if err := g.deduce(store, hasDir, bad); err != nil {
			f.Close()
			return nil, err
		}
	}
	g.Next = g.Capacity
	if g.footer > 0 && !hasDir {
		g.damaged = g.readTrailer()
		return g, nil
	}
	guessed := g.mended != nil
	err = g.openRecord(fs, store, hasDir)
	if err == nil && guessed && g.damaged == nil {
		err = g.rewriteHeader(store)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return g, nil
}

// stamp notes in the header that the store was closed; 0: that it is open. One that tells of damage stays as it is.
func (g *File) Stamp(store uuid.UUID, closing uint64) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	g.mu.Lock()
	fixed := g.footer > 0 || g.damaged != nil || g.mended != nil
	g.mu.Unlock()
	if fixed || g.Closing == closing {
		return nil
	}
	g.Closing = closing
	return g.writeHeader(store, g.footer)
}

var ErrUnfinished = errors.New("the file is empty")

// deduce finds out what a damaged header said. The trailer, which ends the file of a sealed segment, knows how long
// the footer is; where there is a directory, the footer doesn't count. Without either, nobody knows whether the
// segment was sealed.
func (g *File) deduce(store uuid.UUID, hasDir bool, bad *disk.CorruptError) error {
	size, err := g.Data.Size()
	if err != nil {
		return err
	}
	g.Capacity, g.footer = max(size/disk.BlockSize*disk.BlockSize, disk.BlockSize), 0
	if !hasDir {
		t := make([]byte, TrailerSize)
		n, err := g.Data.ReadAt(t, max(size-TrailerSize, 0)) // short, or an error: no trailer
		if disk.Transient(err) {
			return err
		}
		g.footer = footerLength(int(le.Uint32(t[16:])))
		if _, _, err := g.decodeTrailer(t); n < len(t) || err != nil || g.footer > size-disk.BlockSize || size%disk.BlockSize != 0 {
			g.footer, g.damaged = 0, bad
			if g.empty(size) {
				return ErrUnfinished
			}
			return nil
		}
		g.Capacity = size - g.footer
	}
	g.mended = bad
	if hasDir {
		return nil // the header is made anew when the directory is known
	}
	return g.rewriteHeader(store)
}

// empty reports a file of zeroes, or of none.
func (g *File) empty(size int64) bool {
	b := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		n, err := g.Data.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) || !disk.AllZero(b[:n]) {
			return false // what can't be read may be anything
		}
	}
	return true
}

func (g *File) openDir(fs vfs.FS, store uuid.UUID) error {
	g.objects = map[uint32]Object{}
	var err error
	g.objectLog, err = record.Open(fs, []string{ObjectLogName(g.ID)}, ObjectLogID(store, g.ID), true, func(p []byte) error {
		objs, err := DecodeObjects(p)
		for _, o := range objs {
			g.note(o)
		}
		return err
	})
	return err
}

// note takes an object into the open segment's record.
func (g *File) note(o Object) {
	if _, again := g.objects[o.Block]; again {
		return
	}
	g.objects[o.Block] = o
	if o.Kind == merkle.KindChunk {
		g.chunks += int64(o.Length)
	} else {
		g.nodes += int64(o.Length)
	}
}

// addObjects records objects whose bytes are durable already; they are durable when it returns. After
// disk.ErrNoSpace those in g.objects are recorded, and no others.
func (g *File) Add(fs vfs.FS, store uuid.UUID, objs []Object) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	if g.objectLog == nil {
		// One that failed before, and could not be taken back, holds nothing.
		if err := fs.Remove(ObjectLogName(g.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		d, err := record.Create(fs, ObjectLogName(g.ID), ObjectLogID(store, g.ID))
		if err != nil {
			return err
		}
		failpoint.Here(failpoint.DirMade)
		if err := fs.SyncDir(Dir); err != nil {
			return errors.Join(err, d.Close(), fs.Remove(ObjectLogName(g.ID))) // nothing is in it yet
		}
		g.mu.Lock()
		g.objectLog = d
		g.mu.Unlock()
	}
	for frame := range slices.Chunk(objs, record.MaxPayload/ObjectSize) {
		if err := g.objectLog.Append(EncodeObjects(frame)); err != nil {
			return err
		}
		g.noteAll(frame)
	}
	return nil
}

// noteAll takes objects into the open segment's record. Under recordMu.
func (g *File) noteAll(objs []Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.objects == nil {
		g.objects = make(map[uint32]Object, len(objs))
	}
	for _, o := range objs {
		g.note(o)
	}
}

// sorted returns the open segment's objects in order of block. Under recordMu or mu.
func (g *File) sorted() []Object {
	objs := make([]Object, 0, len(g.objects))
	for _, o := range g.objects {
		objs = append(objs, o)
	}
	sort.Slice(objs, func(i, j int) bool { return objs[i].Block < objs[j].Block })
	return objs
}

// seal writes the footer and makes the segment immutable. Its directory goes last: as long as it is there,
// it counts, and a footer half written does not.
func (g *File) Seal(fs vfs.FS, store uuid.UUID) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	if g.footer > 0 {
		return nil
	}
	footer := EncodeFooter(g.ID, g.sorted())
	if _, err := g.Data.WriteAt(footer, g.Capacity); err != nil {
		return err
	}
	failpoint.Here(failpoint.SealFooter)
	length := int64(len(footer))
	err := g.writeHeader(store, length)
	if err == nil {
		err = disk.SyncError(g.Data.Datasync())
	}
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.SealHeader)
	dir := g.objectLog
	g.mu.Lock()
	g.footer = length
	g.mu.Unlock()
	if dir == nil {
		return nil
	}
	if err := dir.Close(); err != nil {
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

// encodeFooter encodes the objects of a segment, which are in order of block, and the trailer.
func EncodeFooter(id uint32, objs []Object) []byte {
	var chunks, others int64
	for i := range objs {
		if objs[i].Kind == merkle.KindChunk {
			chunks += int64(objs[i].Length)
		} else {
			others += int64(objs[i].Length)
		}
	}
	all := EncodeObjects(objs)
	b := make([]byte, footerLength(len(objs)))
	copy(b, all)
	t := b[len(b)-TrailerSize:]
	copy(t, trailerMagic)
	le.PutUint32(t[8:], disk.Version)
	le.PutUint32(t[12:], id)
	le.PutUint32(t[16:], uint32(len(objs)))
	le.PutUint32(t[20:], disk.Checksum(all))
	le.PutUint64(t[24:], uint64(chunks))
	le.PutUint64(t[32:], uint64(others))
	le.PutUint32(t[60:], disk.Checksum(t[:60]))
	return b
}

func (g *File) readTrailer() error {
	t := make([]byte, TrailerSize)
	off := g.Capacity + g.footer - TrailerSize
	if n, err := g.Data.ReadAt(t, off); n < len(t) {
		return &disk.CorruptError{File: Name(g.ID), Offset: off, Object: "segment trailer", Err: err}
	}
	if _, _, err := g.decodeTrailer(t); err != nil {
		return &disk.CorruptError{File: Name(g.ID), Offset: off, Object: "segment trailer", Err: err}
	}
	g.chunks, g.nodes = int64(le.Uint64(t[24:])), int64(le.Uint64(t[32:]))
	return nil
}

func (g *File) decodeTrailer(t []byte) (count int, sum uint32, err error) {
	count, sum = int(le.Uint32(t[16:])), le.Uint32(t[20:])
	switch {
	case string(t[:8]) != trailerMagic:
		err = errors.New("no trailer magic")
	case disk.Checksum(t[:60]) != le.Uint32(t[60:]):
		err = errors.New("checksum of the trailer")
	case le.Uint32(t[8:]) != disk.Version:
		err = fmt.Errorf("%w: trailer version %d", disk.ErrVersion, le.Uint32(t[8:]))
	case le.Uint32(t[12:]) != g.ID:
		err = fmt.Errorf("it is of segment %08x", le.Uint32(t[12:]))
	case int64(count)*ObjectSize+TrailerSize > g.footer:
		err = fmt.Errorf("%d objects in a footer of %d bytes", count, g.footer)
	}
	return count, sum, err
}

// readFooter gives the sealed segment's entries, encoded and checked.
func (g *File) ReadFooter() (Entries, error) {
	bad := func(err error) error {
		return &disk.CorruptError{File: Name(g.ID), Offset: g.Capacity, Object: "segment footer", Err: err}
	}
	b := make([]byte, g.footer)
	if n, err := g.Data.ReadAt(b, g.Capacity); n < len(b) {
		return nil, bad(err)
	}
	count, want, err := g.decodeTrailer(b[len(b)-TrailerSize:])
	if err != nil {
		return nil, bad(err)
	}
	all := b[:count*ObjectSize]
	if got := disk.Checksum(all); got != want {
		return nil, bad(fmt.Errorf("checksum %08x, want %08x", got, want))
	}
	return all, nil
}

// entries are the encoded objects of a footer, in order of block. They are kept encoded: of most, nobody ever asks for more
// than the hash.
type Entries []byte

// len returns how many objects there are.
func (e Entries) Len() int { return len(e) / ObjectSize }

// hash returns the hash of object i.
func (e Entries) Hash(i int) merkle.Hash {
	return merkle.Hash(e[i*ObjectSize : i*ObjectSize+merkle.HashSize])
}

// at decodes object i.
func (e Entries) At(i int) (Object, error) { return decodeObject(e[i*ObjectSize : (i+1)*ObjectSize]) }

// find returns the object at a block.
func (e Entries) Find(block uint32) (Object, bool) {
	i := sort.Search(e.Len(), func(i int) bool { return le.Uint32(e[i*ObjectSize+32:]) >= block })
	if i == e.Len() {
		return Object{}, false
	}
	o, err := e.At(i)
	return o, err == nil && o.Block == block
}

var le = binary.LittleEndian
