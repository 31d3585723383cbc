package record

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// content is the content of one copy of a log.
type content struct {
	disk.Content
	stale bool // an older version has appended to the other copy only: this one no longer counts
}

// Open opens the log in the named files, calls each for every frame, and leaves the log ready for
// appends. It repairs what it can: a torn last frame is removed, and a damaged copy gets the bytes
// of the others. With several names some files may be missing, or damaged in different places.
// Damage that no copy can repair is a disk.CorruptError; each was then called for the good frames.
//
// mayBeNew says that a power cut may have come before the log's header was durable: a file without
// header and frames then counts as an empty log, and its header is written.
func Open(fs vfs.FS, names []string, id ID, mayBeNew bool, each func(payload []byte) error) (*Log, error) {
	l := newLog(id)
	contents, err := l.readCopies(fs, names)
	if err != nil {
		_ = l.Close() // the first error is the one to report
		return nil, err
	}
	header := id.header()
	if mayBeNew && l.neverUsed(contents[0].Data) {
		contents[0].Data = header
		if err := l.copies[0].write(header, 0, false); err != nil && !errors.Is(disk.SpaceError(err), disk.ErrNoSpace) {
			_ = l.Close() // the first error is the one to report
			return nil, fmt.Errorf("repair %s: %w", l.Name(), err)
		}
	}
	good, err := l.scan(contents, header, each)
	if err == nil {
		err = l.repair(contents, good)
	}
	if err != nil {
		_ = l.Close() // the first error is the one to report
		return nil, err
	}
	return l, nil
}

// readCopies opens and reads the files that exist. It closes those that it does not add to
// l.copies.
func (l *Log) readCopies(fs vfs.FS, names []string) ([]content, error) {
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
				l.copies = append(l.copies, logFile{name, f})
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
		contents = append(contents, c)
	}
	if len(l.copies) == 0 {
		return nil, &disk.CorruptError{File: names[0], Object: "log", Err: missing}
	}
	return contents, nil
}

// neverUsed reports whether a file lost its header before any frame was written: frames are written
// after the header is durable. An opening that found no space for the header may have left the end
// mark.
func (l *Log) neverUsed(data []byte) bool {
	return disk.AllZero(data[:min(len(data), HeaderSize)]) && (len(data) <= HeaderSize || l.seed.marked(data, l.end))
}

// scan calls each for the frames, each read from a copy that has it whole, and returns the bytes of
// the log.
func (l *Log) scan(contents []content, header []byte, each func([]byte) error) ([]byte, error) {
	headers := 0
	for i, c := range contents {
		if bytes.HasPrefix(c.Data, header) {
			headers++
		} else if isHeader(c.Data) {
			return nil, &disk.CorruptError{File: l.copies[i].name, Object: "log header", Err: errForeignHeader}
		}
	}
	good := append([]byte(nil), header...)
	var damage error
	for {
		p, next, err := l.frameIn(contents, l.end)
		if err != nil {
			at, why := l.proofBehind(contents, l.end)
			if at == 0 {
				break
			}
			err = &disk.CorruptError{File: l.Name(), Offset: l.end, Object: "log frame", Err: fmt.Errorf("%w; %s", err, why)}
			damage = cmp.Or(damage, err)
			if at = l.resyncIn(contents, l.end+frameAlign); at == 0 {
				break
			}
			l.end = at
			continue
		}
		if err := each(p); err != nil {
			damage = cmp.Or(damage, error(&disk.CorruptError{File: l.Name(), Offset: l.end, Object: "log record", Err: err}))
		}
		good = append(good, l.seed.encode(p, l.end)...)
		l.last, l.end = l.end, next
	}
	// The ID tells what the header should be, so a missing header does not matter if there are good
	// frames of this log.
	if damage == nil && headers == 0 && l.end == HeaderSize {
		damage = &disk.CorruptError{File: l.Name(), Object: "log header", Err: contents[0].Cause(errForeignHeader.Error())}
	}
	return good, damage
}

var errForeignHeader = errors.New("not the header of this store's file")

// frameIn decodes the frame at off from the first copy that has it whole. A copy that has another
// frame there no longer counts: a version that knows only the first copy has rewritten that one.
func (l *Log) frameIn(contents []content, off int64) (payload []byte, next int64, err error) {
	for i := range contents {
		p, n, ferr := l.seed.decodeIn(contents[i].Data, off)
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

// proofBehind looks for proof that the bad frame at off was once whole. It returns the offset of
// the proof, or 0.
func (l *Log) proofBehind(contents []content, off int64) (at int64, why string) {
	if at := l.resyncIn(contents, off+frameAlign); at > 0 {
		return at, fmt.Sprintf("the frame at byte %d is good again", at)
	}
	for i := range contents {
		data := contents[i].Data
		for at := off + frameHeader; at+markSize <= int64(len(data)); at += frameAlign {
			if l.seed.isMark(data[at:], at) {
				return at, fmt.Sprintf("the mark at byte %d says that it was complete", at)
			}
		}
		if at := contents[i].BadFrom(off); at >= 0 && int64(len(data)) > off+markSize && !l.anyMarked(contents) {
			return off, fmt.Sprintf("byte %d can't be read: %v", at, contents[i].Err)
		}
	}
	return 0, ""
}

// resyncIn returns the offset of the first good frame at or after off in any copy, or 0.
func (l *Log) resyncIn(contents []content, off int64) int64 {
	first := int64(0)
	for i := range contents {
		if at := l.seed.resync(contents[i].Data, off); at > 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// anyMarked reports whether a copy ends here, with the end mark.
func (l *Log) anyMarked(contents []content) bool {
	for i := range contents {
		if l.seed.marked(contents[i].Data, l.end) {
			return true
		}
	}
	return false
}

// repair writes the good bytes to every copy, durably. It rewrites the last frame even if that is
// good: its sync may have failed, or not have begun before the process was killed, and then the
// page cache may have the frame as clean pages that are not on disk.
func (l *Log) repair(contents []content, good []byte) error {
	var first error
	kept := l.copies[:0]
	for i, f := range l.copies {
		if contents[i].stale { // created anew later: if written in place, a crash could leave frames of both
			l.damage = append(l.damage, &disk.CorruptError{File: f.name, Object: "log", Err: errors.New("an older version of varve has left it behind")})
			_ = f.file.Close() // it was only read
			continue
		}
		err := l.repairCopy(f, &contents[i], good)
		if err != nil && first == nil {
			first = fmt.Errorf("repair %s: %w", f.name, disk.SpaceError(err))
		}
		if err != nil {
			_ = f.file.Close() // another copy has the bytes, or the error is returned
			continue
		}
		kept = append(kept, f)
	}
	l.copies = kept
	if len(kept) == 0 {
		return first
	}
	l.putMark()
	return nil
}

func (l *Log) repairCopy(f logFile, c *content, good []byte) error {
	data := c.Data
	from := l.last
	if !bytes.HasPrefix(data, good[:l.last]) {
		from = 0
		for from < int64(len(data)) && data[from] == good[from] {
			from++
		}
		if c.Err != nil {
			from = c.Bad[0]
		}
		l.damage = append(l.damage, &disk.CorruptError{File: f.name, Offset: from, Object: "log", Err: c.Cause("bytes that are not those of the log")})
		from = 0
	}
	cut := int64(len(data)) > l.end && !l.seed.marked(data, l.end)
	err := f.write(good, from, cut)
	if errors.Is(disk.SpaceError(err), disk.ErrNoSpace) && bytes.HasPrefix(data, good) {
		err = f.write(good, int64(len(good)), cut) // a full file system without overwriting in place; the bytes are there
	}
	return err
}

// write writes the good bytes from an offset on, durably, and with cut truncates the file after
// them.
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
