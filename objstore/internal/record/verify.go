package record

import (
	"bytes"

	"varve/objstore/internal/disk"
)

// VerifyCopy reads copy i by itself: every frame that was appended must be there. The
// error is a disk.CorruptError.
func (l *Log) VerifyCopy(i int) error {
	f := l.copies[i]
	c, err := disk.ReadContent(f.file)
	if err != nil {
		return disk.AsCorrupt(err, f.name, 0, "log")
	}
	header := l.id.header()
	if !bytes.HasPrefix(c.Data, header) {
		return &disk.CorruptError{File: f.name, Object: "log header", Err: c.Cause(errForeignHeader.Error())}
	}
	alone := newLog(l.id)
	alone.copies = []logFile{f}
	_, err = alone.scan([]content{{Content: c}}, header, func([]byte) error { return nil })
	if err == nil && alone.end < l.end {
		err = &disk.CorruptError{File: f.name, Offset: alone.end, Object: "log frame", Err: c.Cause("it is not what was written there")}
	}
	return err
}
