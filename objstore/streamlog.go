package objstore

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// wholeLog is the most bytes of a record log that are read at once. A longer one is read frame by frame, twice: first to
// see that every file has all of it, then for what it says. Only where that is not so, as after a power cut, does it have
// to be in memory as a whole.
var wholeLog int64 = 64 << 20

// openStreamed opens a long log all of whose files are good. nil: it is not long, or they are not.
func openStreamed(fs vfs.FS, names []string, header []byte, each func(payload []byte) error) (*recordLog, error) {
	l := &recordLog{seed: disk.Checksum(header), last: logHeaderSize, end: logHeaderSize}
	size := int64(0)
	for _, name := range names {
		f, err := fs.Open(name)
		if err != nil {
			return nil, l.close() // whoever reads it as a whole says what is wrong
		}
		l.files = append(l.files, logFile{name, f})
		if size, err = f.Size(); err != nil || size <= wholeLog {
			return nil, l.close()
		}
	}
	last, err := l.stream(header, nil)
	if err == nil {
		_, err = l.stream(header, each)
	}
	if disk.Damaged(err) || errors.Is(err, errNotClean) {
		return nil, l.close()
	}
	for _, f := range l.files {
		// The sync of the last frame may have failed, or never have begun: see mend.
		if err == nil {
			_, err = f.file.WriteAt(last, l.last)
		}
		if err == nil {
			err = f.file.Datasync()
		}
	}
	if err != nil {
		_ = l.close() // the first error is the one to report
		return nil, err
	}
	l.putMark()
	return l, nil
}

// errNotClean says that a log has to be looked at as a whole.
var errNotClean = errors.New("a log that is not the same good frames in every file")

// stream goes through the frames of all files at once, and gives the bytes of the last one. each may be nil.
func (l *recordLog) stream(header []byte, each func(payload []byte) error) (last []byte, err error) {
	readers := make([]*bufio.Reader, len(l.files))
	for i, f := range l.files {
		size, err := f.file.Size()
		if err != nil {
			return nil, err
		}
		readers[i] = bufio.NewReaderSize(io.NewSectionReader(f.file, 0, size), 1<<20)
	}
	if b, err := readSame(readers, logHeaderSize); err != nil || !bytes.Equal(b, header) {
		return nil, errors.Join(err, errNotClean)
	}
	l.last, l.end = logHeaderSize, logHeaderSize
	for {
		b, err := readSame(readers, logFrameHeader)
		if errors.Is(err, io.EOF) || err == nil && l.isMark(b, l.end) && l.ends(readers) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
		n := int64(le.Uint32(b[4:]))
		if n == 0 || n > maxFrame {
			return nil, errNotClean
		}
		rest, err := readSame(readers, disk.RoundUp(logFrameHeader+n, 8)-logFrameHeader)
		if err != nil {
			return nil, errors.Join(err, errNotClean)
		}
		frame := append(b, rest...)
		payload, next, err := l.frameAt(frame, l.end)
		if err != nil {
			return nil, errNotClean
		}
		if each != nil {
			if err := each(payload); err != nil {
				return nil, &CorruptError{File: l.name(), Offset: l.end, Object: "log record", Err: err}
			}
		}
		last, l.last, l.end = frame, l.end, next
	}
}

// readSame reads n bytes that are the same in every file. io.EOF: all of them end here.
func readSame(readers []*bufio.Reader, n int64) ([]byte, error) {
	var first []byte
	for i, r := range readers {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		switch {
		case errors.Is(err, io.EOF) && (i == 0 || first == nil):
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), i > 0 && !bytes.Equal(b, first):
			return nil, errNotClean
		case err != nil:
			return nil, err
		default:
			first = b
		}
	}
	if first == nil {
		return nil, io.EOF
	}
	return first, nil
}

// ends reports that nothing is left of any file.
func (l *recordLog) ends(readers []*bufio.Reader) bool {
	for _, r := range readers {
		if _, err := r.Peek(1); !errors.Is(err, io.EOF) {
			return false
		}
	}
	return true
}
