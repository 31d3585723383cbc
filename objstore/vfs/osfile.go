package vfs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"varve/objstore/busfault"
)

// osFile is a file with one descriptor through the page cache and, once FD was asked for one, a
// second one past it.
type osFile struct {
	f  *os.File
	fd int

	once        sync.Once
	direct      *os.File // nil: the file system has no direct I/O
	directFD    int
	directAlign int64 // what an offset, a length and a buffer's address must be a multiple of
}

func newOSFile(f *os.File) *osFile { return &osFile{f: f, fd: int(f.Fd()), directFD: -1} }

func (o *osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &iofs.PathError{Op: op, Path: o.f.Name(), Err: err}
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o *osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o *osFile) Truncate(size int64) error                { return o.f.Truncate(size) }

func (o *osFile) Size() (int64, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(o.fd, &st) }); err != nil {
		return 0, o.wrap("stat", err)
	}
	return st.Size, nil
}

func (o *osFile) Identity() (Identity, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(o.fd, &st) }); err != nil {
		return Identity{}, o.wrap("statfs", err)
	}
	if numbersAnew(&st) {
		return Identity{}, nil
	}
	id, _, err := identify(o.fd)
	return id, o.wrap("identify", err)
}

func (o *osFile) Datasync() error {
	return o.wrap("fdatasync", retry(func() error { return unix.Fdatasync(o.fd) }))
}

func (o *osFile) Close() error {
	o.once.Do(func() {}) // from here on FD opens nothing
	err := o.f.Close()
	if o.direct != nil {
		err = errors.Join(err, o.direct.Close())
	}
	return err
}

// Allocate falls back on writing zeroes into the holes where the file system has no fallocate. A
// write to the range that runs at the same time could then be lost.
func (o *osFile) Allocate(off, length int64) error {
	if err := checkRange(off, length); err != nil || length == 0 {
		return o.wrap("allocate", err)
	}
	err := retry(func() error { return unix.Fallocate(o.fd, 0, off, length) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = o.fillHoles(off, off+length)
	}
	return o.wrap("allocate", err)
}

// Reserve does nothing where the file system has no fallocate.
func (o *osFile) Reserve(off, length int64) error {
	if err := checkRange(off, length); err != nil || length == 0 {
		return o.wrap("reserve", err)
	}
	err := retry(func() error { return unix.Fallocate(o.fd, unix.FALLOC_FL_KEEP_SIZE, off, length) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return o.wrap("reserve", err)
}

// Punch falls back on writing zeroes, which keeps the room but reads the same.
func (o *osFile) Punch(off, length int64) error {
	if err := checkRange(off, length); err != nil || length == 0 {
		return o.wrap("punch", err)
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := retry(func() error { return unix.Fallocate(o.fd, mode, off, length) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = o.zeroUpToSize(off, off+length)
	}
	return o.wrap("punch", err)
}

func (o *osFile) zeroUpToSize(off, end int64) error {
	size, err := o.Size()
	if err != nil {
		return err
	}
	return o.writeZeroes(off, min(end, size))
}

// fillHoles writes zeroes where [off, end) has holes or lies past the end of the file. A file
// system that cannot tell its holes says that it has none (lseek(2)).
func (o *osFile) fillHoles(off, end int64) error {
	size, err := o.Size()
	if err != nil {
		return err
	}
	for off < min(end, size) {
		hole, err := unix.Seek(o.fd, off, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		data, err := unix.Seek(o.fd, hole, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // none up to the end
			data, err = size, nil
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		if err := o.writeZeroes(hole, min(data, end, size)); err != nil {
			return err
		}
		off = max(data, hole)
	}
	return o.writeZeroes(max(off, size), end)
}

func (o *osFile) writeZeroes(off, end int64) error {
	if off >= end {
		return nil
	}
	zeroes := make([]byte, min(end-off, 1<<20))
	for off < end {
		n, err := o.f.WriteAt(zeroes[:min(end-off, int64(len(zeroes)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func (o *osFile) Map(off int64, length int) ([]byte, error) {
	if err := checkRange(off, int64(length)); err != nil {
		return nil, o.wrap("mmap", err)
	}
	size, err := o.Size()
	if err != nil {
		return nil, err
	}
	if off+int64(length) > size { // a touch past the end would be a SIGBUS
		return nil, o.wrap("mmap", fmt.Errorf("range %d+%d past the size of %d: %w", off, length, size, iofs.ErrInvalid))
	}
	b, err := busfault.Map(o.fd, off, length)
	return b, o.wrap("mmap", err)
}

func (o *osFile) Unmap(b []byte) error { return o.wrap("munmap", busfault.Unmap(b)) }

// Prefault needs Linux 5.14; before that the pages fault later.
func (o *osFile) Prefault(b []byte) { _ = unix.Madvise(b, unix.MADV_POPULATE_WRITE) }

func (o *osFile) FD(align int64) int {
	o.once.Do(o.openDirect)
	if o.direct != nil && align > 0 && align%o.directAlign == 0 {
		return o.directFD
	}
	return o.fd
}

// openDirect opens the second descriptor by way of the first, so that a rename in between cannot
// make it another file. Any error means that there is no direct I/O here.
func (o *osFile) openDirect() {
	d, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", o.fd), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return
	}
	align := directAlign(int(d.Fd()))
	if align == 0 {
		_ = d.Close() // nothing was written through it
		return
	}
	o.direct, o.directFD, o.directAlign = d, int(d.Fd()), align
}

// directAlign asks for the alignment that direct I/O on the file needs (statx, Linux 6.1; file
// systems that say nothing are tried out). 0: none works.
func directAlign(fd int) int64 {
	var st unix.Statx_t
	err := retry(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	})
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		return int64(max(st.Dio_offset_align, st.Dio_mem_align)) // 0: the file takes no direct I/O
	}
	// An anonymous page is page-aligned, so what is tried is the offset and the length; the address
	// of a buffer never needs more than they do.
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0
	}
	defer func() { _ = unix.Munmap(page) }()
	for _, align := range []int64{512, 4096} {
		// At end of file a read of 0 bytes still checks the alignment first, on the file systems
		// that check.
		err := retry(func() error { _, err := unix.Pread(fd, page[:align], align); return err })
		if err == nil {
			return align
		}
	}
	return 0
}
