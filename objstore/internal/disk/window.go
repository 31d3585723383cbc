package disk

import (
	"context"
	"errors"
	"io"
	"slices"

	"varve/objstore/vfs"
)

// windowStep is how many bytes a Window reads at once, unless more are asked for.
const windowStep = 1 << 20

// Window reads a file from the beginning to the end, as far as the disk returns it, and keeps the
// part in memory that is looked at. It has no lock.
//
// Blocks that cannot be read are zeroes, and listed in Unread once they were in the window. Any
// other error is kept in Failed: from then on the file appears to be empty, and nothing that was
// concluded from its bytes counts.
type Window struct {
	Unread
	Failed error // of a read, or of the context

	ctx  context.Context //nolint:containedctx // of the one call that reads the file
	file vfs.File
	size int64
	off  int64  // of buf in the file
	buf  []byte // valid bytes
}

// NewWindow returns a window of a file of the size that it has now. If ctx ends, so does its
// reading, with ctx's error in Failed. The file stays the caller's.
func NewWindow(ctx context.Context, f vfs.File) (*Window, error) {
	size, err := contentSize(f)
	return &Window{ctx: ctx, file: f, size: size}, err
}

// Size is the length in bytes of what the window shows.
func (w *Window) Size() int64 { return w.size }

// Cut has the window show the file up to off only.
func (w *Window) Cut(off int64) { w.size = min(w.size, off) }

// Replace has the window show b instead of the file.
func (w *Window) Replace(b []byte) { w.size, w.off, w.buf = int64(len(b)), 0, b }

// At returns n bytes at off, or those up to the end of the file, if that is before. They are valid
// until the next call.
func (w *Window) At(off, n int64) []byte {
	off = min(off, w.size)
	end := min(off+n, w.size)
	if off == end {
		return nil
	}
	if off < w.off || end > w.off+int64(len(w.buf)) {
		w.move(off, min(off+max(RoundUp(n, windowStep), windowStep), w.size))
		if w.Failed != nil {
			return nil
		}
	}
	return w.buf[off-w.off : end-w.off]
}

// move reads the bytes [off, end), as far as the window does not have them.
func (w *Window) move(off, end int64) {
	have := w.buf[:0]
	if at := off - w.off; at >= 0 && at < int64(len(w.buf)) {
		have = w.buf[at:]
	}
	if n := int(end - off); cap(w.buf) >= n {
		w.buf = w.buf[:n]
	} else {
		w.buf = make([]byte, n)
	}
	n := copy(w.buf, have)
	w.off = off
	if err := w.read(w.buf[n:], off+int64(n)); err != nil {
		w.Failed = err
		w.size, w.buf = 0, nil
	}
}

// read reads a part of the file, block by block where the disk fails.
func (w *Window) read(b []byte, off int64) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	n, err := w.file.ReadAt(b, off)
	if err == nil || errors.Is(err, io.EOF) {
		clear(b[n:])
		return nil
	}
	if !Unreadable(err) {
		return err
	}
	for len(b) > 0 {
		part := b[:min(int64(len(b)), BlockSize-off%BlockSize)]
		switch n, err := w.file.ReadAt(part, off); {
		case err == nil || errors.Is(err, io.EOF):
			clear(part[n:])
		case Unreadable(err):
			clear(part)
			w.note(off/BlockSize*BlockSize, err)
		default:
			return err
		}
		b, off = b[len(part):], off+int64(len(part))
	}
	return nil
}

// note notes a block that cannot be read.
func (w *Window) note(block int64, err error) {
	if w.Err == nil {
		w.Err = err
	}
	if i, there := slices.BinarySearch(w.Bad, block); !there {
		w.Bad = slices.Insert(w.Bad, i, block)
	}
}
