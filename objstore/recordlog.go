package objstore

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/google/uuid"

	"varve/objstore/vfs"
)

// A record log is an append-only file of checksummed frames; refs and the directories of open segments are
// record logs. Each frame is durable before the next one is written, so that a power cut can only spoil the
// last one.
//
//	header, 64 bytes                      frame, padded to 8 bytes
//	  0  magic "varveLOG"                   0  CRC-32C u32 of the rest, seeded by the file and the offset
//	  8  version u32                        4  payload length u32, bytes
//	 12  kind u32                           8  payload
//	 16  store UUID, 16 bytes
//	 32  number u64: which file of its kind
//	 40  zeroes
//	 60  CRC-32C of bytes 0 to 59
const (
	logMagic       = "varveLOG"
	logHeaderSize  = 64
	logFrameHeader = 8
	logKindRefs    = 1
	logKindDir     = 2
	maxFrame       = 64 << 20
)

type recordLog struct {
	name string
	file vfs.File
	seed uint32
	last int64 // where the last frame begins that was read
	end  int64

	ahead    int64 // bytes behind the end that are kept allocated, so that a full disk takes a record; 0: none
	reserved int64 // up to here they are
}

func logHeader(kind uint32, store uuid.UUID, number uint64) []byte {
	b := make([]byte, logHeaderSize)
	copy(b, logMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], kind)
	copy(b[16:], store[:])
	le.PutUint64(b[32:], number)
	le.PutUint32(b[60:], crc(b[:60]))
	return b
}

// createLog makes the file; its directory entry is durable only after SyncDir.
func createLog(fs vfs.FS, name string, kind uint32, store uuid.UUID, number uint64) (*recordLog, error) {
	f, err := fs.Create(name)
	if err != nil {
		return nil, outOfSpace(err)
	}
	h := logHeader(kind, store, number)
	if _, err = f.WriteAt(h, 0); err == nil {
		err = f.Datasync()
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(name) // so that it can be made when there is room again
		return nil, outOfSpace(err)
	}
	return &recordLog{name: name, file: f, seed: crc(h), end: logHeaderSize}, nil
}

// openLog reads every frame and leaves the log ready for more. A spoilt last frame is cut off: it was never
// answered. A spoilt frame with a good one behind it is damage, and an error. Where a power cut may have
// caught the file before its header was durable (mayBeNew), a file without header and frames is made anew.
func openLog(fs vfs.FS, name string, kind uint32, store uuid.UUID, number uint64, mayBeNew bool, each func(payload []byte) error) (*recordLog, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	l := &recordLog{name: name, file: f}
	data, err := readAll(f)
	header := logHeader(kind, store, number)
	if err == nil && mayBeNew && l.neverUsed(data, header) {
		data = header
		_, err = f.WriteAt(header, 0)
	}
	if err == nil {
		err = l.scan(data, header, each)
	}
	if err == nil && int64(len(data)) > l.end {
		err = f.Truncate(l.end)
	}
	if err == nil {
		// The sync of the last frame may have failed, or never have begun before the process was killed: what
		// was read then is in the page cache, and no longer known there as something to be written.
		_, err = f.WriteAt(data[l.last:min(l.end, int64(len(data)))], l.last)
	}
	if err == nil {
		err = f.Datasync()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// neverUsed reports a file whose header was lost before any frame was written.
func (l *recordLog) neverUsed(data, header []byte) bool {
	l.seed = crc(header)
	n := min(len(data), logHeaderSize)
	return bytes.Count(data[:n], []byte{0}) == n && l.resync(data, logHeaderSize) == 0
}

func (l *recordLog) scan(data, header []byte, each func([]byte) error) error {
	if len(data) < logHeaderSize || string(data[:logHeaderSize]) != string(header) {
		return &CorruptError{File: l.name, Object: "log header", Err: errors.New("not the header of this store's file")}
	}
	l.seed, l.end = crc(header), logHeaderSize
	for l.end < int64(len(data)) {
		p, next, err := l.frame(data, l.end)
		if err != nil {
			if again := l.resync(data, l.end+8); again > 0 {
				return &CorruptError{
					File: l.name, Offset: l.end, Object: "log frame",
					Err: fmt.Errorf("%w; the frame at byte %d is good again", err, again),
				}
			}
			return nil
		}
		if err := each(p); err != nil {
			return &CorruptError{File: l.name, Offset: l.end, Object: "log record", Err: err}
		}
		l.last, l.end = l.end, next
	}
	return nil
}

func (l *recordLog) frame(data []byte, off int64) (payload []byte, next int64, err error) {
	if off+logFrameHeader > int64(len(data)) {
		return nil, 0, errors.New("truncated frame header")
	}
	n := int64(le.Uint32(data[off+4:]))
	if n == 0 || n > maxFrame || off+logFrameHeader+n > int64(len(data)) {
		return nil, 0, fmt.Errorf("frame length %d bytes", n)
	}
	body := data[off+4 : off+logFrameHeader+n]
	if got, want := l.sum(off, body), le.Uint32(data[off:]); got != want {
		return nil, 0, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	return body[4:], off + roundUp(logFrameHeader+n, 8), nil
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
	return crc32.Update(crc32.Update(l.seed, castagnoli, b[:]), castagnoli, body)
}

// append writes one frame and makes it durable. After ErrNoSpace the log is what it was before; after any
// other error nobody knows what it holds.
func (l *recordLog) append(payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("frame of %d bytes: %w: at most %d", len(payload), ErrInvalid, maxFrame)
	}
	b := make([]byte, roundUp(int64(logFrameHeader+len(payload)), 8))
	le.PutUint32(b[4:], uint32(len(payload)))
	copy(b[logFrameHeader:], payload)
	le.PutUint32(b, l.sum(l.end, b[4:logFrameHeader+len(payload)]))
	_, err := l.file.WriteAt(b, l.end)
	if err == nil {
		err = l.file.Datasync()
	}
	if err == nil {
		l.end += int64(len(b))
		l.reserve()
		return nil
	}
	l.reserved = 0 // truncating gives it back
	full := outOfSpace(err)
	if !errors.Is(full, ErrNoSpace) {
		return err
	}
	// Durably: a power cut must not bring back what was answered with an error.
	if terr := l.file.Truncate(l.end); terr != nil {
		return fmt.Errorf("%w; then %w", err, terr)
	}
	if terr := l.file.Datasync(); terr != nil {
		return fmt.Errorf("%w; then %w", err, terr)
	}
	return full
}

// reserve keeps room behind the end. Where there is none, the next append tries again.
func (l *recordLog) reserve() {
	if l.ahead == 0 || l.reserved-l.end >= l.ahead/2 {
		return
	}
	if err := l.file.Reserve(l.end, l.ahead); err == nil {
		l.reserved = l.end + l.ahead
	}
}

func (l *recordLog) close() error { return l.file.Close() }

func readAll(f vfs.File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
