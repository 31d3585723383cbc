package record

import (
	"bytes"
	"context"

	"varve/objstore/internal/disk"
)

// VerifyCopy reads copy i by itself: every frame that was appended must be there. The error is a
// disk.CorruptError, or that of ctx.
func (l *Log) VerifyCopy(ctx context.Context, i int) error {
	f := l.copies[i]
	c := &copyReader{logFile: f, differs: -1}
	var err error
	if c.Window, err = disk.NewWindow(ctx, f.file); err != nil {
		return disk.AsCorrupt(err, f.name, 0, "log")
	}
	good := bytes.Equal(c.At(0, HeaderSize), l.id.header())
	alone := newLog(l.id)
	alone.copies = []logFile{f}
	if good {
		_, err = alone.scan([]*copyReader{c}, func([]byte) error { return nil })
	}
	switch {
	case ctx.Err() != nil && c.Failed != nil:
		return ctx.Err()
	case c.Failed != nil:
		return disk.AsCorrupt(c.Failed, f.name, 0, "log")
	case !good:
		return &disk.CorruptError{File: f.name, Object: "log header", Err: c.Cause(errForeignHeader.Error())}
	case err == nil && alone.end < l.end:
		return &disk.CorruptError{File: f.name, Offset: alone.end, Object: "log frame", Err: c.Cause("it is not what was written there")}
	}
	return err
}
