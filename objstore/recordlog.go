package objstore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// A record log is an append-only file of checksummed frames; refs and the directories of open segments are
// record logs. Each frame is durable before the next one is written, so that a power cut can only spoil the
// last one. Refs are kept in two files of the same bytes: a frame counts if either has it whole.
//
//	header, 64 bytes                      frame, padded to 8 bytes
//	  0  magic "varveLOG"                   0  CRC-32C u32 of the rest, seeded by the file and the offset
//	  8  version u32                        4  payload length u32, bytes
//	 12  kind u32                           8  payload
//	 16  store UUID, 16 bytes
//	 32  number u64: which file of its    end mark, behind the last frame
//	     kind                               0  CRC-32C u32 of the rest, seeded by the file and the offset
//	 40  zeroes                             4  0 u32
//	 60  CRC-32C of bytes 0 to 59
//
// The end mark is written when the frame before it is durable, and overwritten by the next frame: a spoilt last
// frame with its mark behind it was whole once, and is damage. Nobody waits for the mark, so that after a power
// cut it may be missing.
const (
	logMagic       = "varveLOG"
	logHeaderSize  = 64
	logFrameHeader = 8
	logMarkSize    = 8
	logKindRefs    = 1
	logKindDir     = 2
	maxFrame       = 64 << 20
)

type recordLog struct {
	files  []logFile // at least one; all have the same bytes
	seed   uint32
	last   int64           // where the last frame begins
	end    int64           // where the next one will
	damage []*CorruptError // what was found, and mended, when it was opened

	uncut bool // there may be a frame behind the end that was answered with an error

	ahead    int64 // bytes behind the end that are kept allocated, so that a full disk takes a record; 0: none
	reserved int64 // up to here they are
}

// content is what one file of a log holds.
type content struct {
	disk.Content
	stale bool // an older version has written to the other file only: this one no longer counts
}

type logFile struct {
	name string
	file vfs.File
}

func (l *recordLog) name() string { return l.files[0].name }

func logHeader(kind uint32, store uuid.UUID, number uint64) []byte {
	b := make([]byte, logHeaderSize)
	copy(b, logMagic)
	le.PutUint32(b[8:], disk.Version)
	le.PutUint32(b[12:], kind)
	copy(b[16:], store[:])
	le.PutUint64(b[32:], number)
	le.PutUint32(b[60:], disk.Checksum(b[:60]))
	return b
}

// createLog makes the file; its directory entry is durable only after SyncDir.
func createLog(fs vfs.FS, name string, kind uint32, store uuid.UUID, number uint64) (*recordLog, error) {
	h := logHeader(kind, store, number)
	f, err := disk.CreateFile(fs, name, h)
	if err != nil {
		return nil, err
	}
	return &recordLog{files: []logFile{{name, f}}, seed: disk.Checksum(h), last: logHeaderSize, end: logHeaderSize}, nil
}

// addCopy makes a second file of the same bytes; its directory entry is durable only after SyncDir.
func (l *recordLog) addCopy(fs vfs.FS, name string) error {
	draft := name + ".new" // under its own name, a half of it would pass for damage
	for _, n := range []string{name, draft} {
		if err := fs.Remove(n); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f, err := fs.Create(draft)
	if err != nil {
		return disk.SpaceError(err)
	}
	if err = l.copyTo(f); err == nil {
		err = f.Datasync()
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(draft) // so that it can be made when there is room again
		return disk.SpaceError(err)
	}
	if err := fs.Rename(draft, name); err != nil {
		f.Close()
		return disk.SpaceError(err)
	}
	l.files = append(l.files, logFile{name, f})
	return nil
}

// copyTo writes the log to another file, with its end mark.
func (l *recordLog) copyTo(f vfs.File) error {
	b := make([]byte, min(l.end, 1<<20))
	for off := int64(0); off < l.end; off += int64(len(b)) {
		b = b[:min(int64(len(b)), l.end-off)]
		if n, err := l.files[0].file.ReadAt(b, off); n < len(b) {
			return err
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	_, err := f.WriteAt(l.mark(), l.end)
	return err
}

// openLog reads every frame and leaves the log ready for more. A spoilt last frame is cut off: it was never
// answered. A spoilt frame with a good one, or its end mark, behind it is damage, and an error. Where a power cut
// may have caught the file before its header was durable (mayBeNew), a file without header and frames is made
// anew.
func openLog(fs vfs.FS, name string, kind uint32, store uuid.UUID, number uint64, mayBeNew bool, each func(payload []byte) error) (*recordLog, error) {
	return openLogs(fs, []string{name}, kind, store, number, mayBeNew, each)
}

// openLogs is openLog for a log of several files, of which some may be missing, or damaged in different places.
// After an error of damage, each has seen the frames that are good.
func openLogs(fs vfs.FS, names []string, kind uint32, store uuid.UUID, number uint64, mayBeNew bool, each func(payload []byte) error) (*recordLog, error) {
	l := &recordLog{}
	var contents []content
	missing := os.ErrNotExist
	for _, name := range names {
		f, err := fs.Open(name)
		if errors.Is(err, os.ErrNotExist) && len(names) > 1 {
			continue
		}
		var c content
		if err == nil {
			if c.Content, err = disk.ReadContent(f); err != nil {
				_ = f.Close() // it was only read
			} else {
				l.files = append(l.files, logFile{name, f})
			}
		}
		if disk.Damaged(err) && len(names) > 1 {
			l.damage = append(l.damage, &CorruptError{File: name, Object: "log", Err: err})
			missing = err
			continue
		}
		if err != nil {
			_ = l.close() // the first error is the one to report
			return nil, err
		}
		contents = append(contents, c)
	}
	if len(l.files) == 0 {
		return nil, &CorruptError{File: names[0], Object: "log", Err: missing}
	}
	header := logHeader(kind, store, number)
	l.seed, l.last, l.end = disk.Checksum(header), logHeaderSize, logHeaderSize
	if mayBeNew && l.neverUsed(contents[0].Data) {
		contents[0].Data = header
		if err := l.files[0].write(header, 0, false); err != nil && !errors.Is(disk.SpaceError(err), ErrNoSpace) {
			_ = l.close() // the first error is the one to report
			return nil, fmt.Errorf("mend %s: %w", l.name(), err)
		}
	}
	good, err := l.scan(contents, header, each)
	if err == nil {
		err = l.mend(contents, good)
	}
	if err != nil {
		_ = l.close() // the first error is the one to report
		return nil, err
	}
	return l, nil
}

// mend brings every file to the good bytes, durably. The sync of the last frame may have failed, or never have
// begun before the process was killed: what was read then is in the page cache, and no longer known there as
// something to be written.
func (l *recordLog) mend(contents []content, good []byte) error {
	var first error
	kept := l.files[:0]
	for i, f := range l.files {
		if contents[i].stale { // it is made anew: in place, a crash could leave frames of both behind one another
			l.damage = append(l.damage, &CorruptError{File: f.name, Object: "log", Err: errors.New("an older version of varve has left it behind")})
			_ = f.file.Close() // it was only read
			continue
		}
		data := contents[i].Data
		from := l.last
		if !bytes.HasPrefix(data, good[:l.last]) {
			from = 0
			for from < int64(len(data)) && data[from] == good[from] {
				from++
			}
			if c := &contents[i]; c.Err != nil {
				from = c.Bad[0]
			}
			l.damage = append(l.damage, &CorruptError{File: f.name, Offset: from, Object: "log", Err: contents[i].Cause("bytes that are not those of the log")})
			from = 0
		}
		cut := int64(len(data)) > l.end && !l.marked(data)
		err := f.write(good, from, cut)
		if errors.Is(disk.SpaceError(err), ErrNoSpace) && bytes.HasPrefix(data, good) {
			err = f.write(good, int64(len(good)), cut) // it has them: a full disk that writes nothing in place
		}
		if err != nil && first == nil {
			first = fmt.Errorf("mend %s: %w", f.name, disk.SpaceError(err))
		}
		if err != nil {
			_ = f.file.Close() // another one has the bytes, or the error is reported
			continue
		}
		kept = append(kept, f)
	}
	l.files = kept
	if len(kept) == 0 {
		return first
	}
	l.putMark()
	return nil
}

func (f logFile) write(good []byte, from int64, cut bool) error {
	if cut {
		if err := f.file.Truncate(int64(len(good))); err != nil {
			return err
		}
	}
	if _, err := f.file.WriteAt(good[from:], from); err != nil {
		return err
	}
	return f.file.Datasync()
}

// neverUsed reports a file whose header was lost before any frame was written: they come after it is durable. An opening
// that found no room for the header may have left the mark.
func (l *recordLog) neverUsed(data []byte) bool {
	return disk.AllZero(data[:min(len(data), logHeaderSize)]) && (len(data) <= logHeaderSize || l.marked(data))
}

// scan hands over the frames, each from whichever file has it whole, and gives the bytes of the log.
func (l *recordLog) scan(contents []content, header []byte, each func([]byte) error) ([]byte, error) {
	headers := 0
	for i, c := range contents {
		if bytes.HasPrefix(c.Data, header) {
			headers++
		} else if len(c.Data) >= logHeaderSize && disk.Checksum(c.Data[:60]) == le.Uint32(c.Data[60:]) {
			return nil, &CorruptError{File: l.files[i].name, Object: "log header", Err: errors.New("not the header of this store's file")}
		}
	}
	good := append([]byte(nil), header...)
	var damage error
	for {
		p, next, err := l.frameIn(contents, l.end)
		if err != nil {
			at, why := l.beyond(contents, l.end)
			if at == 0 {
				break
			}
			err = &CorruptError{File: l.name(), Offset: l.end, Object: "log frame", Err: fmt.Errorf("%w; %s", err, why)}
			damage = cmp.Or(damage, err)
			if at = l.resyncIn(contents, l.end+8); at == 0 {
				break
			}
			l.end = at
			continue
		}
		if err := each(p); err != nil {
			damage = cmp.Or(damage, error(&CorruptError{File: l.name(), Offset: l.end, Object: "log record", Err: err}))
		}
		good = append(good, frameBytes(p, l.sum, l.end)...)
		l.last, l.end = l.end, next
	}
	// The header is known; that it is missing means nothing where frames are good for this log.
	if damage == nil && headers == 0 && l.end == logHeaderSize {
		damage = &CorruptError{File: l.name(), Object: "log header", Err: contents[0].Cause("not the header of this store's file")}
	}
	return good, damage
}

// frameIn reads the frame at off out of the first file that has it whole. A file that has another one there counts no
// more: a version that knows the first one only has rewritten that.
func (l *recordLog) frameIn(contents []content, off int64) (payload []byte, next int64, err error) {
	for i := range contents {
		p, n, ferr := l.frame(contents[i].Data, off)
		switch {
		case ferr != nil && err == nil:
			err = ferr
		case ferr == nil && payload == nil:
			payload, next = p, n
		case ferr == nil && !bytes.Equal(p, payload):
			contents[i] = content{stale: true}
		}
	}
	if payload == nil {
		return nil, 0, err
	}
	return payload, next, nil
}

// beyond finds proof that the spoilt frame at off was whole once.
func (l *recordLog) beyond(contents []content, off int64) (at int64, why string) {
	if at := l.resyncIn(contents, off+8); at > 0 {
		return at, fmt.Sprintf("the frame at byte %d is good again", at)
	}
	for i := range contents {
		data := contents[i].Data
		for at := off + logFrameHeader; at+logMarkSize <= int64(len(data)); at += 8 {
			if l.isMark(data[at:], at) {
				return at, fmt.Sprintf("the mark at byte %d says that it was complete", at)
			}
		}
		if at := contents[i].BadFrom(off); at >= 0 && int64(len(data)) > off+logMarkSize && !l.markedIn(contents) {
			return off, fmt.Sprintf("byte %d can't be read: %v", at, contents[i].Err)
		}
	}
	return 0, ""
}

func (l *recordLog) resyncIn(contents []content, off int64) int64 {
	first := int64(0)
	for i := range contents {
		if at := l.resync(contents[i].Data, off); at > 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

func (l *recordLog) frame(data []byte, off int64) (payload []byte, next int64, err error) {
	return l.frameAt(data[min(off, int64(len(data))):], off)
}

// frameAt takes the beginning of b for the frame that the log has at off.
func (l *recordLog) frameAt(b []byte, off int64) (payload []byte, next int64, err error) {
	if len(b) < logFrameHeader {
		return nil, 0, errors.New("truncated frame header")
	}
	n := int64(le.Uint32(b[4:]))
	if n == 0 || n > maxFrame || logFrameHeader+n > int64(len(b)) {
		return nil, 0, fmt.Errorf("frame length %d bytes", n)
	}
	body := b[4 : logFrameHeader+n]
	if got, want := l.sum(off, body), le.Uint32(b); got != want {
		return nil, 0, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	return body[4:], off + disk.RoundUp(logFrameHeader+n, 8), nil
}

func frameBytes(payload []byte, sum func(int64, []byte) uint32, off int64) []byte {
	b := make([]byte, disk.RoundUp(int64(logFrameHeader+len(payload)), 8))
	le.PutUint32(b[4:], uint32(len(payload)))
	copy(b[logFrameHeader:], payload)
	le.PutUint32(b, sum(off, b[4:logFrameHeader+len(payload)]))
	return b
}

// resync finds the first good frame at or after off; 0 if there is none.
func (l *recordLog) resync(data []byte, off int64) int64 {
	for ; off+logFrameHeader < int64(len(data)); off += 8 {
		if _, _, err := l.frame(data, off); err == nil {
			return off
		}
	}
	return 0
}

func (l *recordLog) sum(off int64, body []byte) uint32 {
	var b [8]byte
	le.PutUint64(b[:], uint64(off))
	return disk.UpdateChecksum(disk.UpdateChecksum(l.seed, b[:]), body)
}

// mark is the end mark as it stands behind the last frame.
func (l *recordLog) mark() []byte {
	b := make([]byte, logMarkSize)
	le.PutUint32(b, l.sum(l.end, b[4:]))
	return b
}

func (l *recordLog) isMark(b []byte, off int64) bool {
	return le.Uint32(b[4:]) == 0 && le.Uint32(b) == l.sum(off, b[4:logMarkSize])
}

// marked reports a file that ends with the end mark.
func (l *recordLog) marked(data []byte) bool {
	return int64(len(data)) == l.end+logMarkSize && l.isMark(data[l.end:], l.end)
}

func (l *recordLog) markedIn(contents []content) bool {
	for i := range contents {
		if l.marked(contents[i].Data) {
			return true
		}
	}
	return false
}

// putMark writes the end mark. Whoever reads the log can do without.
func (l *recordLog) putMark() {
	for _, f := range l.files {
		_, _ = f.file.WriteAt(l.mark(), l.end)
	}
}

// draft writes one frame to a log of one file that nobody reads yet; sync makes it durable with those before it.
func (l *recordLog) draft(payload []byte) error {
	b := frameBytes(payload, l.sum, l.end)
	if _, err := l.files[0].file.WriteAt(b, l.end); err != nil {
		return disk.SpaceError(err)
	}
	l.last, l.end = l.end, l.end+int64(len(b))
	return nil
}

// sync makes a draft durable.
func (l *recordLog) sync() error {
	if err := l.files[0].file.Datasync(); err != nil {
		return disk.SpaceError(err)
	}
	l.putMark()
	return nil
}

// append writes one frame and makes it durable. After ErrNoSpace and passing errors the log is what it was
// before; after any other error nobody knows what it holds.
func (l *recordLog) append(payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("frame of %d bytes: %w: at most %d", len(payload), ErrInvalid, maxFrame)
	}
	if l.uncut {
		if err := l.cut(); err != nil {
			return err
		}
	}
	b := frameBytes(payload, l.sum, l.end)
	err := disk.Parallel(l.files, func(f logFile) error {
		if _, err := f.file.WriteAt(b, l.end); err != nil {
			return err
		}
		failpoint.Here(failpoint.LogWritten)
		if err := disk.SyncError(f.file.Datasync()); err != nil {
			return err
		}
		failpoint.Here(failpoint.LogSynced)
		return nil
	})
	if err == nil {
		l.last, l.end = l.end, l.end+int64(len(b))
		l.reserve()
		l.putMark()
		return nil
	}
	l.reserved = 0 // truncating gives it back
	full := disk.SpaceError(err)
	if !disk.Transient(err) && !errors.Is(full, ErrNoSpace) {
		return err
	}
	if cerr := l.cut(); disk.Transient(cerr) {
		l.uncut = true // the next frame begins with that
	} else if cerr != nil {
		return fmt.Errorf("%w: %w; then %w", disk.ErrUnsynced, err, cerr)
	}
	return full
}

// cut takes what is behind the end away, durably: a power cut must not bring back what was answered with an error.
func (l *recordLog) cut() error {
	for _, f := range l.files {
		if err := f.file.Truncate(l.end); err != nil {
			return err
		}
		if err := disk.SyncError(f.file.Datasync()); err != nil {
			return err
		}
	}
	l.uncut = false
	l.putMark()
	return nil
}

// reserve keeps room behind the end, in every file. Where there is none, the next append tries again.
func (l *recordLog) reserve() {
	if l.ahead == 0 || l.reserved-l.end >= l.ahead/2 {
		return
	}
	for _, f := range l.files {
		if err := f.file.Reserve(l.end, l.ahead); err != nil {
			return
		}
	}
	l.reserved = l.end + l.ahead
}

func (l *recordLog) close() error {
	var first error
	for _, f := range l.files {
		if err := f.file.Close(); first == nil {
			first = err
		}
	}
	return first
}
