package record

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// OpenLong opens a log whose copies have more than least bytes and are all good, with one frame in
// memory at a time. It reads them twice: first to see that they are good, then for their content.
// For a log that is shorter or not good, as after a power cut, it returns nil without an error: the
// caller then uses Open, which reads the whole log into memory and calls each for all frames again.
// If ctx ends, OpenLong returns its error.
func OpenLong(ctx context.Context, fs vfs.FS, names []string, id ID, least int64, each func(payload []byte) error) (*Log, error) {
	l := newLog(id)
	for _, name := range names {
		f, err := fs.Open(name)
		if err != nil {
			return nil, l.Close() // Open reports what is wrong
		}
		l.copies = append(l.copies, logFile{name, f})
		if size, err := f.Size(); err != nil || size <= least {
			return nil, l.Close()
		}
	}
	last, err := l.stream(ctx, nil)
	if err == nil {
		_, err = l.stream(ctx, each)
	}
	if disk.Damaged(err) || errors.Is(err, errNotClean) {
		return nil, l.Close()
	}
	for _, f := range l.copies {
		// The sync of the last frame may have failed, or never have begun: see repair.
		if err == nil {
			_, err = f.file.WriteAt(last, l.last)
		}
		if err == nil {
			err = f.file.Datasync()
		}
	}
	if err != nil {
		_ = l.Close() // the first error is the one to report
		return nil, err
	}
	l.putMark()
	return l, nil
}

// errNotClean: the log must be read as a whole.
var errNotClean = errors.New("a log that is not the same good frames in every file")

// stream reads the frames of all copies in parallel, calls each, if it is not nil, for every
// payload, and returns the bytes of the last frame.
func (l *Log) stream(ctx context.Context, each func(payload []byte) error) (last []byte, err error) {
	readers := make([]*bufio.Reader, len(l.copies))
	for i, f := range l.copies {
		size, err := f.file.Size()
		if err != nil {
			return nil, err
		}
		readers[i] = bufio.NewReaderSize(io.NewSectionReader(f.file, 0, size), 1<<20)
	}
	if b, err := readSame(readers, HeaderSize); err != nil || !bytes.Equal(b, l.id.header()) {
		return nil, errors.Join(err, errNotClean)
	}
	l.last, l.end = HeaderSize, HeaderSize
	for {
		b, err := readSame(readers, frameHeader)
		if errors.Is(err, io.EOF) || err == nil && l.seed.isMark(b, l.end) && atEnd(readers) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
		n := int64(le.Uint32(b[4:]))
		if n == 0 || n > MaxPayload {
			return nil, errNotClean
		}
		rest, err := readSame(readers, disk.RoundUp(frameHeader+n, frameAlign)-frameHeader)
		if err != nil {
			return nil, errors.Join(err, errNotClean)
		}
		frame := append(b, rest...)
		payload, next, err := l.seed.decode(frame, l.end)
		if err != nil {
			return nil, errNotClean
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if each != nil {
			if err := each(payload); err != nil {
				return nil, &disk.CorruptError{File: l.Name(), Offset: l.end, Object: "log record", Err: err}
			}
		}
		last, l.last, l.end = frame, l.end, next
	}
}

// readSame reads n bytes that are the same in every copy. io.EOF: all copies end here.
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

// atEnd reports whether all copies have been read to their end.
func atEnd(readers []*bufio.Reader) bool {
	for _, r := range readers {
		if _, err := r.Peek(1); !errors.Is(err, io.EOF) {
			return false
		}
	}
	return true
}
