package segment

import (
	"context"
	"errors"
	"io"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// ErrUnfinished is returned for an empty file, or one of zeroes: a power cut came before the header
// was durable, and nothing refers to the segment.
var ErrUnfinished = errors.New("the file is empty")

// Open opens a segment of an earlier process; hasLog says whether there is an object log. A segment
// that was not sealed counts as full: writes that were never answered may be beyond its data.
//
// If header, trailer and object log contradict one another, or cannot be read, Open deduces their
// content from the others and repairs them (Repaired). If it cannot, the segment is damaged
// (Damage), which is no error. Errors are ErrUnfinished, disk.ErrVersion in a disk.CorruptError,
// those of the file system that do not mean damage, and that of ctx.
func Open(ctx context.Context, fs vfs.FS, id uint32, store uuid.UUID, hasLog bool) (*File, error) {
	f, err := fs.Open(Name(id))
	if err != nil {
		return nil, err
	}
	g := &File{ID: id, Data: f, Full: true, Inherited: true}
	if err := g.open(ctx, fs, store, hasLog); err != nil {
		f.Close()
		return nil, err
	}
	return g, nil
}

func (g *File) open(ctx context.Context, fs vfs.FS, store uuid.UUID, hasLog bool) error {
	if err := g.openHeader(store, hasLog); err != nil {
		return err
	}
	g.Next = g.Capacity
	if g.footer > 0 && !hasLog {
		g.damaged = g.readTrailer()
		return nil
	}
	deduced := g.repaired != nil
	if err := g.reconcile(ctx, fs, store, hasLog); err != nil {
		return err
	}
	if deduced && g.damaged == nil {
		return g.rewriteHeader(store)
	}
	return nil
}

// openHeader reads the header, or deduces its content.
func (g *File) openHeader(store uuid.UUID, hasLog bool) error {
	b := make([]byte, HeaderSize)
	n, err := g.Data.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) && !disk.Unreadable(err) {
		return err
	}
	if err == nil || errors.Is(err, io.EOF) {
		var h Header
		if h, err = DecodeHeader(b[:n], g.ID, store); err == nil {
			g.Capacity, g.footer, g.Closing = h.Capacity, h.Footer, h.Closing
			return nil
		}
	}
	bad := &disk.CorruptError{File: Name(g.ID), Object: "segment header", Err: err}
	if errors.Is(err, disk.ErrVersion) {
		return bad
	}
	return g.deduceHeader(store, hasLog, bad)
}

// deduceHeader deduces the content of a damaged header. The trailer, at the end of the file of a
// sealed segment, has the length of the footer; if there is an object log, the footer does not
// count. Without either, it is unknown whether the segment was sealed.
func (g *File) deduceHeader(store uuid.UUID, hasLog bool, bad *disk.CorruptError) error {
	size, err := g.Data.Size()
	if err != nil {
		return err
	}
	g.Capacity, g.footer = max(size/disk.BlockSize*disk.BlockSize, disk.BlockSize), 0
	if !hasLog {
		t := make([]byte, TrailerSize)
		n, err := g.Data.ReadAt(t, max(size-TrailerSize, 0)) // short, or an error: no trailer
		if disk.Transient(err) {
			return err
		}
		footer := footerHint(t)
		if _, err := decodeTrailer(t, g.ID, footer); n < len(t) || err != nil || footer > size-disk.BlockSize || size%disk.BlockSize != 0 {
			g.damaged = bad
			if g.zeroes(size) {
				return ErrUnfinished
			}
			return nil
		}
		g.footer = footer
		g.Capacity = size - footer
	}
	g.repaired = bad
	if hasLog {
		return nil // the header is written when the object log is known
	}
	return g.rewriteHeader(store)
}

// zeroes reports whether a file is empty or all zeroes.
func (g *File) zeroes(size int64) bool {
	b := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		n, err := g.Data.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) || !disk.AllZero(b[:n]) {
			return false // what cannot be read may be anything
		}
	}
	return true
}

// rewriteHeader writes a deduced header. If the disk is full, the next opening deduces it again.
func (g *File) rewriteHeader(store uuid.UUID) error {
	err := g.writeHeader(store, g.footer)
	if err == nil {
		err = g.Sync()
	}
	if errors.Is(disk.SpaceError(err), disk.ErrNoSpace) || disk.Unreadable(err) {
		return nil
	}
	return err
}

// readTrailer reads the bytes of chunks and other objects from the trailer.
func (g *File) readTrailer() error {
	b := make([]byte, TrailerSize)
	off := g.Capacity + g.footer - TrailerSize
	n, err := g.Data.ReadAt(b, off)
	var t trailer
	if n == len(b) {
		t, err = decodeTrailer(b, g.ID, g.footer)
	}
	if err != nil {
		return &disk.CorruptError{File: Name(g.ID), Offset: off, Object: "segment trailer", Err: err}
	}
	g.chunks, g.others = t.chunks, t.others
	return nil
}
