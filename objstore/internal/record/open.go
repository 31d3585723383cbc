package record

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// copyReader reads one copy of a log, a window of it at a time.
type copyReader struct {
	logFile
	*disk.Window
	stale   bool  // an older version has appended to the other copy only: this one no longer counts
	differs int64 // the offset of its first byte that is not the log's; -1: none so far
}

// Open opens the log in the named files, calls each for every frame, and leaves the log ready for
// appends. The payload is valid during the call. It repairs what it can: a torn last frame is
// removed, and a damaged copy gets the bytes of the others. With several names some files may be
// missing, or damaged in different places. Damage that no copy can repair is a disk.CorruptError;
// each was then called for the good frames. If ctx ends meanwhile, Open returns its error; what is
// repaired until then is right.
//
// Of each file, Open has one frame in memory at a time, and a megabyte or so.
//
// mayBeNew says that a power cut may have come before the log's header was durable: a file without
// header and frames then counts as an empty log, and its header is written.
func Open(ctx context.Context, fs vfs.FS, names []string, id ID, mayBeNew bool, each func(payload []byte) error) (*Log, error) {
	l := newLog(id)
	if err := l.open(ctx, fs, names, mayBeNew, each); err != nil {
		_ = l.Close() // the first error is the one to report
		return nil, err
	}
	return l, nil
}

// open is Open. After an error the caller closes l.copies.
func (l *Log) open(ctx context.Context, fs vfs.FS, names []string, mayBeNew bool, each func(payload []byte) error) error {
	copies, err := l.openCopies(ctx, fs, names)
	if err != nil {
		return err
	}
	if mayBeNew && l.neverUsed(copies[0]) {
		header := l.id.header()
		copies[0].Replace(header)
		if err := copies[0].write(header, 0); err != nil && !errors.Is(disk.SpaceError(err), disk.ErrNoSpace) {
			return fmt.Errorf("repair %s: %w", l.Name(), err)
		}
	}
	last, err := l.scan(copies, each)
	if ferr := failed(copies); ferr != nil { // the scan took what it could not read for the end, or for damage
		return ferr
	}
	if err != nil {
		return err
	}
	err = l.repair(copies, last)
	if ferr := failed(copies); ferr != nil {
		return ferr
	}
	return err
}

// openCopies opens the files that exist, and adds them to l.copies.
func (l *Log) openCopies(ctx context.Context, fs vfs.FS, names []string) ([]*copyReader, error) {
	var copies []*copyReader
	missing := os.ErrNotExist
	for _, name := range names {
		f, err := fs.Open(name)
		if errors.Is(err, os.ErrNotExist) && len(names) > 1 {
			continue
		}
		c := &copyReader{logFile: logFile{name, f}, differs: -1}
		if err == nil {
			if c.Window, err = disk.NewWindow(ctx, f); err != nil {
				_ = f.Close() // it was only read
			}
		}
		if disk.Damaged(err) && len(names) > 1 {
			l.damage = append(l.damage, &disk.CorruptError{File: name, Object: "log", Err: err})
			missing = err
			continue
		}
		if err != nil {
			return nil, err
		}
		l.copies = append(l.copies, c.logFile)
		copies = append(copies, c)
	}
	if len(copies) == 0 {
		return nil, &disk.CorruptError{File: names[0], Object: "log", Err: missing}
	}
	return copies, nil
}

// failed returns the error that has ended the reading of a copy, or nil.
func failed(copies []*copyReader) error {
	for _, c := range copies {
		if c.Failed != nil {
			return c.Failed
		}
	}
	return nil
}

// neverUsed reports whether a file lost its header before any frame was written: frames are written
// after the header is durable. An opening that found no space for the header may have left the end
// mark.
func (l *Log) neverUsed(c *copyReader) bool {
	return disk.AllZero(c.At(0, HeaderSize)) && (c.Size() <= HeaderSize || c.endsWithMark(l.seed, l.end))
}

// scan calls each for the frames, each read from a copy that has it whole, and returns the bytes of
// the last one.
func (l *Log) scan(copies []*copyReader, each func([]byte) error) (last []byte, damage error) {
	header, headers := l.id.header(), 0
	for _, c := range copies {
		if b := c.At(0, HeaderSize); bytes.Equal(b, header) {
			headers++
		} else if isHeader(b) {
			return nil, &disk.CorruptError{File: c.name, Object: "log header", Err: errForeignHeader}
		}
		c.compare(header, 0)
	}
	for {
		p, next, err := l.frameIn(copies, l.end)
		if err != nil {
			at, why := l.proofBehind(copies, l.end)
			if at == 0 {
				break
			}
			err = &disk.CorruptError{File: l.Name(), Offset: l.end, Object: "log frame", Err: fmt.Errorf("%w; %s", err, why)}
			damage = cmp.Or(damage, err)
			if at = l.resyncIn(copies, l.end+frameAlign); at == 0 {
				break
			}
			l.end = at
			continue
		}
		if err := each(p); err != nil {
			damage = cmp.Or(damage, error(&disk.CorruptError{File: l.Name(), Offset: l.end, Object: "log record", Err: err}))
		}
		last = l.seed.encode(p, l.end)
		for _, c := range copies {
			c.compare(last, l.end)
		}
		l.last, l.end = l.end, next
	}
	// The ID tells what the header should be, so a missing header does not matter if there are good
	// frames of this log.
	if damage == nil && headers == 0 && l.end == HeaderSize {
		damage = &disk.CorruptError{File: l.Name(), Object: "log header", Err: copies[0].Cause(errForeignHeader.Error())}
	}
	return last, damage
}

var errForeignHeader = errors.New("not the header of this store's file")

// compare notes the first byte of a copy that is not that of the log, whose bytes at off are good.
func (c *copyReader) compare(good []byte, off int64) {
	if c.differs >= 0 {
		return
	}
	data := c.At(off, int64(len(good)))
	if bytes.Equal(data, good) {
		return
	}
	n := 0
	for n < len(data) && data[n] == good[n] {
		n++
	}
	c.differs = off + int64(n)
}

// frameIn decodes the frame at off from the first copy that has it whole. A copy that has another
// frame there no longer counts from there on: a version that knows only the first copy has rewritten that one.
func (l *Log) frameIn(copies []*copyReader, off int64) (payload []byte, next int64, err error) {
	for _, c := range copies {
		p, n, ferr := c.frame(l.seed, off)
		switch {
		case ferr != nil && err == nil:
			err = ferr
		case ferr == nil && payload == nil:
			payload, next = p, n
		case ferr == nil && !bytes.Equal(p, payload):
			c.Cut(off)
			c.stale = true
		}
	}
	if payload == nil {
		return nil, 0, err
	}
	return payload, next, nil
}

// frame decodes the frame at off.
func (c *copyReader) frame(s seed, off int64) (payload []byte, next int64, err error) {
	b := c.At(off, frameHeader)
	if len(b) == frameHeader {
		if n := int64(le.Uint32(b[4:])); n <= min(MaxPayload, c.Size()-off-frameHeader) {
			b = c.At(off, frameHeader+n)
		}
	}
	return s.decode(b, off)
}

// proofBehind looks for proof that the bad frame at off was once whole. It returns the offset of
// the proof, or 0.
func (l *Log) proofBehind(copies []*copyReader, off int64) (at int64, why string) {
	if at := l.resyncIn(copies, off+frameAlign); at > 0 {
		return at, fmt.Sprintf("the frame at byte %d is good again", at)
	}
	for _, c := range copies {
		for at := off + frameHeader; at+markSize <= c.Size(); at += frameAlign {
			if b := c.At(at, markSize); len(b) == markSize && l.seed.isMark(b, at) {
				return at, fmt.Sprintf("the mark at byte %d says that it was complete", at)
			}
		}
		if at := c.BadFrom(off); at >= 0 && c.Size() > off+markSize && !l.anyMarked(copies) {
			return off, fmt.Sprintf("byte %d can't be read: %v", at, c.Err)
		}
	}
	return 0, ""
}

// resyncIn returns the offset of the first good frame at or after off in any copy, or 0.
func (l *Log) resyncIn(copies []*copyReader, off int64) int64 {
	first := int64(0)
	for _, c := range copies {
		if at := c.resync(l.seed, off); at > 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// resync returns the offset of the first good frame at or after off, or 0 if there is none.
func (c *copyReader) resync(s seed, off int64) int64 {
	for ; off+frameHeader < c.Size(); off += frameAlign {
		b := c.At(off, frameHeader)
		if len(b) < frameHeader {
			return 0 // the reading has failed
		}
		if n := int64(le.Uint32(b[4:])); n == 0 || n > min(MaxPayload, c.Size()-off-frameHeader) {
			continue
		}
		if _, _, err := c.frame(s, off); err == nil {
			return off
		}
	}
	return 0
}

// anyMarked reports whether a copy ends here, with the end mark.
func (l *Log) anyMarked(copies []*copyReader) bool {
	for _, c := range copies {
		if c.endsWithMark(l.seed, l.end) {
			return true
		}
	}
	return false
}

// endsWithMark reports whether the file is a log that ends at off, with the end mark.
func (c *copyReader) endsWithMark(s seed, off int64) bool {
	if c.Size() != off+markSize {
		return false
	}
	b := c.At(off, markSize)
	return len(b) == markSize && s.isMark(b, off)
}
