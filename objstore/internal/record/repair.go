package record

import (
	"errors"
	"fmt"

	"varve/objstore/internal/disk"
)

// rewriteStep is how many bytes of a damaged copy are written at once, unless a frame is longer.
const rewriteStep = 1 << 20

// repair writes the good bytes to every copy, durably; last is the last frame. It rewrites that one
// even if it is good: its sync may have failed, or not have begun before the process was killed,
// and then the page cache may have the frame as clean pages that are not on disk.
func (l *Log) repair(copies []*copyReader, last []byte) error {
	var first error
	var kept, gone []logFile
	for _, c := range copies {
		if c.stale { // created anew later: if written in place, a crash could leave frames of both
			l.damage = append(l.damage, &disk.CorruptError{File: c.name, Object: "log", Err: errors.New("an older version of varve has left it behind")})
			gone = append(gone, c.logFile)
			continue
		}
		err := l.repairCopy(c, copies, last)
		if err != nil && first == nil {
			first = fmt.Errorf("repair %s: %w", c.name, disk.SpaceError(err))
		}
		if err != nil {
			gone = append(gone, c.logFile)
			continue
		}
		kept = append(kept, c.logFile)
	}
	if len(kept) == 0 {
		return first
	}
	for _, f := range gone { // not before: the others were repaired from what is good in it
		_ = f.file.Close() // another copy has the bytes
	}
	l.copies = kept
	l.putMark()
	return nil
}

// repairCopy makes the bytes of a copy those of the log, and durable.
func (l *Log) repairCopy(c *copyReader, copies []*copyReader, last []byte) error {
	damaged := c.differs >= 0 && c.differs < l.last
	if damaged { // noted before anything is tried, which may fail on a bad disk
		at := c.differs
		if c.Err != nil {
			at = c.Bad[0]
		}
		l.damage = append(l.damage, &disk.CorruptError{File: c.name, Offset: at, Object: "log", Err: c.Cause("bytes that are not those of the log")})
	}
	if c.Size() > l.end && !c.endsWithMark(l.seed, l.end) {
		if err := c.file.Truncate(l.end); err != nil {
			return err
		}
	}
	if damaged {
		return l.rewrite(c, copies)
	}
	err := c.write(last, l.last)
	if errors.Is(disk.SpaceError(err), disk.ErrNoSpace) && c.differs < 0 {
		err = c.write(nil, l.end) // a full file system without overwriting in place; the bytes are there
	}
	return err
}

// rewrite writes all bytes of the log to a damaged copy, durably. They come from the copies that
// have them; what c itself had is written as it was.
func (l *Log) rewrite(c *copyReader, copies []*copyReader) error {
	b, at := l.id.header(), int64(0)
	for off := int64(HeaderSize); off < l.end; {
		p, next, err := l.frameIn(copies, off)
		if err != nil {
			return errors.Join(failed(copies), err)
		}
		if b = append(b, l.seed.encode(p, off)...); len(b) >= rewriteStep {
			if _, err := c.file.WriteAt(b, at); err != nil {
				return err
			}
			b, at = b[:0], next
		}
		off = next
	}
	return c.write(b, at)
}

// write writes bytes at an offset, and makes the file durable.
func (f logFile) write(b []byte, off int64) error {
	if _, err := f.file.WriteAt(b, off); err != nil {
		return err
	}
	return f.file.Datasync()
}
