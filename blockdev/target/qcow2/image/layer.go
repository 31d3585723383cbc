package image

import (
	"errors"
	"io"
)

// File is where an image, or a raw backing file, is. backing.File is one.
type File interface {
	// ReadAt fills p, or returns io.ErrUnexpectedEOF.
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64) error
	Sync() error
	Truncate(size int64) error
	Measure() (size int64, err error)
	Discard(off, n int64) error         // free the space
	Zero(off, n int64, keep bool) error // make zeroes; keep: and keep the space
	OffAlign() int                      // what offsets and lengths have to be multiples of
	Path() string
	FD() int
}

// Layer is a disk of a chain: an Image, or a Raw at its end.
type Layer interface {
	// Size of the disk in bytes.
	Size() int64
	// Lookup returns where the bytes from off on are: at least one grain, at most n bytes. The range
	// is in the disk. Without load it does no I/O, and returns ErrNotLoaded if it had to.
	Lookup(off, n int64, load bool) (Extent, error)
}

// ErrNotLoaded means that the table that says where the bytes are is not in memory.
var ErrNotLoaded = errors.New("table is not loaded")

// Kind is where the bytes of an extent are.
type Kind uint8

// Kinds of extents.
const (
	Zeroes Kind = iota // nowhere: they are zero
	Stored             // in File, at Off
	Packed             // only Extent.Read reaches them: compressed, or at the ragged end of a file
)

// Extent is a range of a disk whose bytes are in one place.
type Extent struct {
	Kind Kind
	Len  int64 // bytes
	File File
	Off  int64 // in the file, of a stored extent, and of the ragged end

	in   *Image // whose cluster is compressed; nil: the ragged end
	word uint64 // its L2 entry
	skip int64  // bytes of the cluster before the extent
}

// raggedUnit in bytes: the end of a file that is no multiple of it is not moved by secondaries.
const raggedUnit = 4096

// stored is the extent of n bytes at off in a file of size bytes, beyond whose end are zeroes.
func stored(f File, size, off, n int64) Extent {
	switch have := size - off; {
	case have >= n:
		return Extent{Kind: Stored, Len: n, File: f, Off: off}
	case have <= 0:
		return Extent{Kind: Zeroes, Len: n}
	case have >= raggedUnit:
		return Extent{Kind: Stored, Len: have &^ (raggedUnit - 1), File: f, Off: off}
	default:
		return Extent{Kind: Packed, Len: min(n, raggedUnit), File: f, Off: off}
	}
}

// Read reads the first bytes of an extent. It may block.
func (e *Extent) Read(p []byte) error {
	switch {
	case e.Kind == Zeroes:
		clear(p)
		return nil
	case e.Kind == Stored:
		return e.File.ReadAt(p, e.Off)
	case e.in != nil:
		return e.in.unpack(p, e.word, e.skip)
	}
	clear(p)
	if err := e.File.ReadAt(p, e.Off); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return nil
}

// Read reads bytes of a disk, beyond whose end are zeroes. It may block.
func Read(l Layer, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(int64(len(p)), l.Size()-off)
		if n <= 0 {
			clear(p)
			return nil
		}
		e, err := l.Lookup(off, n, true)
		if err != nil {
			return err
		}
		if err := e.Read(p[:e.Len]); err != nil {
			return err
		}
		p, off = p[e.Len:], off+e.Len
	}
	return nil
}

// zero reports whether n bytes of a disk are known to be zeroes. It may block.
func zero(l Layer, off, n int64) (bool, error) {
	for end := min(off+n, l.Size()); off < end; {
		e, err := l.Lookup(off, end-off, true)
		if err != nil || e.Kind != Zeroes {
			return false, err
		}
		off += e.Len
	}
	return true, nil
}

// Raw is a file whose bytes are the disk.
type Raw struct {
	file File
	size int64
}

// NewRaw returns the disk of a file.
func NewRaw(f File) (*Raw, error) {
	size, err := f.Measure()
	return &Raw{file: f, size: size}, err
}

// Size implements Layer.
func (r *Raw) Size() int64 { return r.size }

// Lookup implements Layer.
func (r *Raw) Lookup(off, n int64, _ bool) (Extent, error) {
	return stored(r.file, r.size, off, n), nil
}
