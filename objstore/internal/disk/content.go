package disk

import (
	"errors"
	"fmt"
	"io"

	"varve/objstore/vfs"
)

// maxContent bounds the files that are read to the end, in bytes: no format grows that large, and a
// damaged size must not exhaust the memory, or the time.
const maxContent = 4 << 30

// Content is a file read into memory as far as the disk returns it.
type Content struct {
	Data []byte // blocks that cannot be read are zeroes
	Unread
}

// Unread says which blocks of a file the disk has refused to return.
type Unread struct {
	Bad []int64 // offsets of the blocks, ascending
	Err error   // the disk's error for the first that was tried; nil if there is none
}

// ReadContent reads a file, block by block where the disk fails. The error is for a file of which
// nothing can be said; blocks that cannot be read are part of the Content.
func ReadContent(f vfs.File) (Content, error) {
	size, err := contentSize(f)
	if err != nil {
		return Content{}, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err == nil || errors.Is(err, io.EOF) {
		return Content{Data: b[:n]}, nil
	}
	if !Unreadable(err) {
		return Content{}, err
	}
	c := Content{Data: b, Unread: Unread{Err: err}}
	for off := int64(0); off < size; off += BlockSize {
		part := b[off:min(off+BlockSize, size)]
		switch _, err := f.ReadAt(part, off); {
		case err == nil || errors.Is(err, io.EOF):
		case Unreadable(err):
			clear(part)
			c.Bad = append(c.Bad, off)
		default:
			return Content{}, err
		}
	}
	if len(c.Bad) == 0 { // the second read succeeded everywhere
		c.Err = nil
	}
	return c, nil
}

// contentSize returns the length of a file in bytes, or an error if it makes no sense.
func contentSize(f vfs.File) (int64, error) {
	size, err := f.Size()
	if err == nil && size > maxContent {
		err = fmt.Errorf("%w: it has %d bytes, at most %d would make sense", ErrCorrupt, size, int64(maxContent))
	}
	return size, err
}

// Cause returns the disk's error, or why as an error if the disk returned none.
func (u *Unread) Cause(why string) error {
	if u.Err != nil {
		return u.Err
	}
	return errors.New(why)
}

// BadFrom returns the offset of the first unreadable block with a byte at or after off, or -1 if
// there is none.
func (u *Unread) BadFrom(off int64) int64 {
	for _, at := range u.Bad {
		if at+BlockSize > off {
			return at
		}
	}
	return -1
}

// AllZero reports whether b is nothing but zeroes.
func AllZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
