package objstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
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
	segmentMagic      = "varveSEG"
	trailerMagic      = "varveFTR"
	segmentHeaderSize = 512
	trailerSize       = 64
	entrySize         = 48
	segmentDir        = "segments"
)

// object is one entry of a segment's footer or directory.
type object struct {
	hash   merkle.Hash
	block  uint32
	length uint32
	kind   merkle.Kind
}

func (o *object) encode(b []byte) {
	copy(b, o.hash[:])
	le.PutUint32(b[32:], o.block)
	le.PutUint32(b[36:], o.length)
	b[40] = byte(o.kind)
	clear(b[41:entrySize])
}

func decodeObject(b []byte) (object, error) {
	o := object{hash: merkle.Hash(b[:32]), block: le.Uint32(b[32:]), length: le.Uint32(b[36:]), kind: merkle.Kind(b[40])}
	if !o.kind.Valid() || o.block == 0 || o.length == 0 || o.length > disk.MaxChunkSize || o.hash.IsZero() {
		return o, fmt.Errorf("%v at block %d of %d bytes", o.kind, o.block, o.length)
	}
	return o, nil
}

func encodeObjects(objs []object) []byte {
	b := make([]byte, len(objs)*entrySize)
	for i := range objs {
		objs[i].encode(b[i*entrySize:])
	}
	return b
}

func decodeObjects(b []byte) ([]object, error) {
	if len(b)%entrySize != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of objects", len(b))
	}
	objs := make([]object, len(b)/entrySize)
	for i := range objs {
		o, err := decodeObject(b[i*entrySize:])
		if err != nil {
			return nil, err
		}
		objs[i] = o
	}
	return objs, nil
}

// segment is an open file of the store. Its life: open (space is handed out, or may hold unsettled writes),
// sealed (immutable), retired (unlinked once no reader has it pinned).
type segment struct {
	id       uint32
	file     vfs.File
	capacity int64 // bytes, where the footer goes

	// Owned by whoever appends: a volume under its lock, or the settler.
	next int64 // bytes, where the next slot begins
	full bool  // nothing more is handed out

	closing uint64 // of the header; changes while the store opens and closes

	unsettled atomic.Int64 // bytes handed out whose layers have not settled
	used      atomic.Int64 // bytes that the sealed segment occupies; 0: not asked yet
	dirty     bool         // in its volume's list of segments to sync; under the volume's lock
	inherited bool         // made by a former process
	ended     bool         // being sealed or retired; under the volume's lock

	recordMu sync.Mutex // one change of the header, the directory or the footer at a time; held over I/O, taken before mu
	mu       sync.Mutex // never held over I/O

	dir      *record.Log       // nil once sealed, or while there are no objects; changes under both locks
	objects  map[uint32]object // by block; while open; changes under both locks
	footer   int64             // footer length in bytes; 0 while open; changes under both locks
	damaged  error             // header, footer or directory unreadable: objects are told by their content
	mended   *CorruptError     // the header or the directory, when the segment was opened
	outlived bool              // its directory is still there, and does not count any more: the footer names all
	chunks   int64             // bytes of chunk objects
	nodes    int64             // bytes of other objects

	scanned   sync.Once
	byContent map[uint64]uint32 // of a damaged segment: the beginning of a hash, and the block that may have it
}

// isDamaged reports that nobody knows all that is in the segment: it is neither sealed, retired nor punched.
func (g *segment) isDamaged() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.damaged != nil
}

func segmentName(id uint32) string { return fmt.Sprintf("%s/%08x.seg", segmentDir, id) }
func dirName(id uint32) string     { return fmt.Sprintf("%s/%08x.dir", segmentDir, id) }

// dirID is the ID of a segment's directory.
func dirID(store uuid.UUID, segment uint32) record.ID {
	return record.ID{Kind: record.Directory, Store: store, Number: uint64(segment)}
}

func (g *segment) header(store uuid.UUID) []byte { return g.headerWith(store, g.footer) }

// headerWith encodes the header of a segment with a footer of so many bytes.
func (g *segment) headerWith(store uuid.UUID, footer int64) []byte {
	b := make([]byte, segmentHeaderSize)
	copy(b, segmentMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], g.id)
	copy(b[16:], store[:])
	le.PutUint64(b[32:], uint64(g.capacity))
	le.PutUint64(b[40:], uint64(footer))
	le.PutUint64(b[48:], g.closing)
	le.PutUint32(b[508:], disk.Checksum(b[:508]))
	return b
}

func decodeSegmentHeader(b []byte, id uint32, store uuid.UUID) (capacity, footer int64, err error) {
	switch {
	case len(b) < segmentHeaderSize:
		return 0, 0, fmt.Errorf("truncated to %d bytes", len(b))
	case string(b[:8]) != segmentMagic:
		return 0, 0, errors.New("no segment magic")
	case disk.Checksum(b[:508]) != le.Uint32(b[508:]):
		return 0, 0, errors.New("checksum of the header")
	case le.Uint32(b[8:]) != disk.Version:
		return 0, 0, fmt.Errorf("%w: segment version %d", ErrVersion, le.Uint32(b[8:]))
	case le.Uint32(b[12:]) != id:
		return 0, 0, fmt.Errorf("it is segment %08x", le.Uint32(b[12:]))
	case !bytes.Equal(b[16:32], store[:]):
		return 0, 0, fmt.Errorf("it is of store %v", uuid.UUID(b[16:32]))
	}
	capacity, footer = int64(le.Uint64(b[32:])), int64(le.Uint64(b[40:]))
	if capacity < disk.BlockSize || capacity%disk.BlockSize != 0 || capacity > disk.BlockSize<<32 || footer < 0 || footer > 1<<32 {
		return 0, 0, fmt.Errorf("capacity %d and footer length %d bytes", capacity, footer)
	}
	return capacity, footer, nil
}

// createSegment makes an empty segment, durable but for its directory entry.
func createSegment(fs vfs.FS, id uint32, capacity int64, store uuid.UUID) (*segment, error) {
	f, err := fs.Create(segmentName(id))
	if err != nil {
		return nil, err
	}
	g := &segment{id: id, file: f, capacity: capacity, next: disk.BlockSize}
	if err = f.Truncate(capacity); err == nil {
		if _, err = f.WriteAt(g.header(store), 0); err == nil {
			err = f.Datasync()
		}
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(segmentName(id))
		return nil, err
	}
	return g, nil
}

// openSegment opens a segment that the store finds in its directory. A segment that was not sealed is full:
// its open end may hold writes that nobody answered. What its header, its trailer or its directory does not tell
// any more is found out from the others, or by looking at the content.
func openSegment(fs vfs.FS, id uint32, store uuid.UUID, hasDir bool) (*segment, error) {
	name := segmentName(id)
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, segmentHeaderSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) && !disk.Unreadable(err) {
		f.Close()
		return nil, err
	}
	g := &segment{id: id, file: f, full: true, inherited: true}
	if err == nil || errors.Is(err, io.EOF) {
		g.capacity, g.footer, err = decodeSegmentHeader(b[:n], id, store)
	}
	if err == nil {
		g.closing = le.Uint64(b[48:])
	}
	if err != nil {
		bad := &CorruptError{File: name, Object: "segment header", Err: err}
		if errors.Is(err, ErrVersion) {
			f.Close()
			return nil, bad
		}
		if err := g.deduce(store, hasDir, bad); err != nil {
			f.Close()
			return nil, err
		}
	}
	g.next = g.capacity
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
func (g *segment) stamp(store uuid.UUID, closing uint64) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	g.mu.Lock()
	fixed := g.footer > 0 || g.damaged != nil || g.mended != nil
	g.mu.Unlock()
	if fixed || g.closing == closing {
		return nil
	}
	g.closing = closing
	_, err := g.file.WriteAt(g.header(store), 0)
	return err
}

var errNeverMade = errors.New("the file is empty")

// deduce finds out what a damaged header said. The trailer, which ends the file of a sealed segment, knows how long
// the footer is; where there is a directory, the footer doesn't count. Without either, nobody knows whether the
// segment was sealed.
func (g *segment) deduce(store uuid.UUID, hasDir bool, bad *CorruptError) error {
	size, err := g.file.Size()
	if err != nil {
		return err
	}
	g.capacity, g.footer = max(size/disk.BlockSize*disk.BlockSize, disk.BlockSize), 0
	if !hasDir {
		t := make([]byte, trailerSize)
		n, err := g.file.ReadAt(t, max(size-trailerSize, 0)) // short, or an error: no trailer
		if disk.Transient(err) {
			return err
		}
		g.footer = footerLength(int(le.Uint32(t[16:])))
		if _, _, err := g.decodeTrailer(t); n < len(t) || err != nil || g.footer > size-disk.BlockSize || size%disk.BlockSize != 0 {
			g.footer, g.damaged = 0, bad
			if g.empty(size) {
				return errNeverMade
			}
			return nil
		}
		g.capacity = size - g.footer
	}
	g.mended = bad
	if hasDir {
		return nil // the header is made anew when the directory is known
	}
	return g.rewriteHeader(store)
}

// empty reports a file of zeroes, or of none.
func (g *segment) empty(size int64) bool {
	b := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		n, err := g.file.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) || !disk.AllZero(b[:n]) {
			return false // what can't be read may be anything
		}
	}
	return true
}

func (g *segment) openDir(fs vfs.FS, store uuid.UUID) error {
	g.objects = map[uint32]object{}
	var err error
	g.dir, err = record.Open(fs, []string{dirName(g.id)}, dirID(store, g.id), true, func(p []byte) error {
		objs, err := decodeObjects(p)
		for _, o := range objs {
			g.note(o)
		}
		return err
	})
	return err
}

// note takes an object into the open segment's record.
func (g *segment) note(o object) {
	if _, again := g.objects[o.block]; again {
		return
	}
	g.objects[o.block] = o
	if o.kind == merkle.KindChunk {
		g.chunks += int64(o.length)
	} else {
		g.nodes += int64(o.length)
	}
}

// addObjects records objects whose bytes are durable already; they are durable when it returns. After
// ErrNoSpace those in g.objects are recorded, and no others.
func (g *segment) addObjects(fs vfs.FS, store uuid.UUID, objs []object) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	if g.dir == nil {
		// One that failed before, and could not be taken back, holds nothing.
		if err := fs.Remove(dirName(g.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		d, err := record.Create(fs, dirName(g.id), dirID(store, g.id))
		if err != nil {
			return err
		}
		failpoint.Here(failpoint.DirMade)
		if err := fs.SyncDir(segmentDir); err != nil {
			return errors.Join(err, d.Close(), fs.Remove(dirName(g.id))) // nothing is in it yet
		}
		g.mu.Lock()
		g.dir = d
		g.mu.Unlock()
	}
	for frame := range slices.Chunk(objs, record.MaxPayload/entrySize) {
		if err := g.dir.Append(encodeObjects(frame)); err != nil {
			return err
		}
		g.noteAll(frame)
	}
	return nil
}

// noteAll takes objects into the open segment's record. Under recordMu.
func (g *segment) noteAll(objs []object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.objects == nil {
		g.objects = make(map[uint32]object, len(objs))
	}
	for _, o := range objs {
		g.note(o)
	}
}

// sorted returns the open segment's objects in order of block. Under recordMu or mu.
func (g *segment) sorted() []object {
	objs := make([]object, 0, len(g.objects))
	for _, o := range g.objects {
		objs = append(objs, o)
	}
	sort.Slice(objs, func(i, j int) bool { return objs[i].block < objs[j].block })
	return objs
}

// seal writes the footer and makes the segment immutable. Its directory goes last: as long as it is there,
// it counts, and a footer half written does not.
func (g *segment) seal(fs vfs.FS, store uuid.UUID) error {
	g.recordMu.Lock()
	defer g.recordMu.Unlock()
	if g.footer > 0 {
		return nil
	}
	footer := g.encodeFooter()
	if _, err := g.file.WriteAt(footer, g.capacity); err != nil {
		return err
	}
	failpoint.Here(failpoint.SealFooter)
	length := int64(len(footer))
	_, err := g.file.WriteAt(g.headerWith(store, length), 0)
	if err == nil {
		err = disk.SyncError(g.file.Datasync())
	}
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.SealHeader)
	dir := g.dir
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
	g.dir, g.objects = nil, nil
	g.mu.Unlock()
	if err := fs.Remove(dirName(g.id)); err != nil {
		return err
	}
	return fs.SyncDir(segmentDir)
}

// encodeFooter encodes the open segment's objects and the trailer. Under recordMu.
func (g *segment) encodeFooter() []byte {
	entries := encodeObjects(g.sorted())
	b := make([]byte, footerLength(len(g.objects)))
	copy(b, entries)
	t := b[len(b)-trailerSize:]
	copy(t, trailerMagic)
	le.PutUint32(t[8:], disk.Version)
	le.PutUint32(t[12:], g.id)
	le.PutUint32(t[16:], uint32(len(g.objects)))
	le.PutUint32(t[20:], disk.Checksum(entries))
	le.PutUint64(t[24:], uint64(g.chunks))
	le.PutUint64(t[32:], uint64(g.nodes))
	le.PutUint32(t[60:], disk.Checksum(t[:60]))
	return b
}

func (g *segment) readTrailer() error {
	t := make([]byte, trailerSize)
	off := g.capacity + g.footer - trailerSize
	if n, err := g.file.ReadAt(t, off); n < len(t) {
		return &CorruptError{File: segmentName(g.id), Offset: off, Object: "segment trailer", Err: err}
	}
	if _, _, err := g.decodeTrailer(t); err != nil {
		return &CorruptError{File: segmentName(g.id), Offset: off, Object: "segment trailer", Err: err}
	}
	g.chunks, g.nodes = int64(le.Uint64(t[24:])), int64(le.Uint64(t[32:]))
	return nil
}

func (g *segment) decodeTrailer(t []byte) (count int, sum uint32, err error) {
	count, sum = int(le.Uint32(t[16:])), le.Uint32(t[20:])
	switch {
	case string(t[:8]) != trailerMagic:
		err = errors.New("no trailer magic")
	case disk.Checksum(t[:60]) != le.Uint32(t[60:]):
		err = errors.New("checksum of the trailer")
	case le.Uint32(t[8:]) != disk.Version:
		err = fmt.Errorf("%w: trailer version %d", ErrVersion, le.Uint32(t[8:]))
	case le.Uint32(t[12:]) != g.id:
		err = fmt.Errorf("it is of segment %08x", le.Uint32(t[12:]))
	case int64(count)*entrySize+trailerSize > g.footer:
		err = fmt.Errorf("%d objects in a footer of %d bytes", count, g.footer)
	}
	return count, sum, err
}

// readFooter gives the sealed segment's entries, encoded and checked.
func (g *segment) readFooter() ([]byte, error) {
	bad := func(err error) error {
		return &CorruptError{File: segmentName(g.id), Offset: g.capacity, Object: "segment footer", Err: err}
	}
	b := make([]byte, g.footer)
	if n, err := g.file.ReadAt(b, g.capacity); n < len(b) {
		return nil, bad(err)
	}
	count, want, err := g.decodeTrailer(b[len(b)-trailerSize:])
	if err != nil {
		return nil, bad(err)
	}
	entries := b[:count*entrySize]
	if got := disk.Checksum(entries); got != want {
		return nil, bad(fmt.Errorf("checksum %08x, want %08x", got, want))
	}
	return entries, nil
}

// findEntry looks a block up in the entries of a footer.
func findEntry(entries []byte, block uint32) (object, bool) {
	n := len(entries) / entrySize
	i := sort.Search(n, func(i int) bool { return le.Uint32(entries[i*entrySize+32:]) >= block })
	if i == n {
		return object{}, false
	}
	o, err := decodeObject(entries[i*entrySize:])
	return o, err == nil && o.block == block
}
