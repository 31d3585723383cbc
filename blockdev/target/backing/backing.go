// Package backing is a file or block device as targets keep their bytes in it: opened with what can
// be checked beforehand checked, so that nothing but its disk can fail later.
//
// A File is read and written by the secondaries of a target, through its descriptor. What has no
// secondary is here: syncs, discards and zeroes, which differ between files and block devices, and
// which may block.
//
//	                 regular file                       block device
//	Discard          fallocate, PUNCH_HOLE              the same, or BLKDISCARD
//	Zero             PUNCH_HOLE                         the same, or ZERO_RANGE
//	Zero, keep       ZERO_RANGE, or hole and fallocate  ZERO_RANGE
//	                 or zeroes are written              or zeroes are written
//
// A file that is written belongs to one File at a time: a regular file is locked (flock), a block
// device is opened exclusively, which also refuses one that is mounted or part of another device.
package backing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/objstore/vfs/fstype"
	"varve/uring/queue"
)

// Options for Open.
type Options struct {
	ReadOnly bool // open for reading only
	Buffered bool // go through the page cache, instead of O_DIRECT where the file system has it
	Shared   bool // read beside a writer: for a look at the file
}

// File is an open backing file or block device. Safe for concurrent use until Close.
type File struct {
	file     *os.File
	fd       int
	path     string
	size     int64 // bytes, when it was opened
	readOnly bool
	shared   bool
	device   bool // a block device
	direct   bool // opened with O_DIRECT
	inMemory bool // a sync waits for nothing
	discards bool // Discard works
	memAlign int  // in bytes: of the memory of transfers
	offAlign int  // in bytes: of places and lengths of transfers
}

// ErrUsed means that another device, mount or process has the file for itself.
var ErrUsed = errors.New("in use")

// releaseGrace is how long Open waits for a process that is ending to give a file up: the kernel
// releases a ring's registered files some time after the process is gone (io_ring_exit_work,
// io_uring/io_uring.c, 7.3).
const releaseGrace = time.Second

// Open opens a file or block device. The caller closes it when no transfer is in flight any more.
// Errors: queue.ErrInvalid for what no target could use, ErrUsed, and those of open(2).
func Open(path string, o Options) (*File, error) {
	f := &File{path: path, readOnly: o.ReadOnly, shared: o.ReadOnly && o.Shared, direct: !o.Buffered}
	if err := f.check(os.Stat(path)); err != nil { // before it is opened: opening a FIFO waits
		return nil, err
	}
	err := f.open()
	for end := time.Now().Add(releaseGrace); errors.Is(err, ErrUsed) && time.Now().Before(end); err = f.open() {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return nil, err
	}
	err = f.check(f.file.Stat()) // another file may have the name by now
	if err == nil {
		err = f.examine()
	}
	if err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	return f, nil
}

// check refuses what is neither a file nor a block device.
func (f *File) check(fi os.FileInfo, err error) error {
	if err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	f.device = fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
	if !f.device && !fi.Mode().IsRegular() {
		return fmt.Errorf("%w: backing file %s is a %s; use a regular file or a block device", queue.ErrInvalid, f.path, kind(fi.Mode()))
	}
	return nil
}

func kind(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&os.ModeNamedPipe != 0:
		return "named pipe"
	case m&os.ModeSocket != 0:
		return "socket"
	case m&os.ModeCharDevice != 0:
		return "character device"
	}
	return "special file"
}

// open opens the file, without O_DIRECT where the file system lacks it, and takes it for this File
// alone if it is written.
func (f *File) open() error {
	flags := os.O_RDWR
	switch {
	case f.readOnly:
		flags = os.O_RDONLY
	case f.device:
		flags |= unix.O_EXCL
	}
	if f.direct {
		flags |= unix.O_DIRECT
	}
	file, err := os.OpenFile(f.path, flags, 0)
	if f.direct && errors.Is(err, unix.EINVAL) {
		f.direct = false
		file, err = os.OpenFile(f.path, flags&^unix.O_DIRECT, 0)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("backing file %s: %w: it is mounted, or belongs to another device", f.path, ErrUsed)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES) && !f.readOnly:
		return fmt.Errorf("backing file: %w: it can't be written; a read-only device would do", err)
	case err != nil:
		return fmt.Errorf("backing file: %w", err)
	}
	f.file, f.fd = file, int(file.Fd())
	if f.device || f.shared {
		return nil
	}
	how := unix.LOCK_EX
	if f.readOnly {
		how = unix.LOCK_SH
	}
	switch err := unix.Flock(f.fd, how|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return errors.Join(fmt.Errorf("backing file %s: %w: another device or program has locked it", f.path, ErrUsed), file.Close())
	case err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP): // as on some network file systems
		return errors.Join(fmt.Errorf("lock backing file %s: %w", f.path, err), file.Close())
	}
	return nil
}

// examine finds out what the file can do.
func (f *File) examine() error {
	var err error
	if f.size, err = f.Measure(); err != nil {
		return err
	}
	if f.device && !f.readOnly {
		if ro, err := unix.IoctlGetInt(f.fd, unix.BLKROGET); err == nil && ro != 0 {
			return fmt.Errorf("backing file %s: %w: it is a read-only block device; a read-only device over it would do", f.path, unix.EROFS)
		}
	}
	f.inMemory = inMemory(f.fd)
	f.memAlign, f.offAlign = f.alignment()
	f.discards = !f.readOnly && f.canDiscard()
	return nil
}

// alignment returns what transfers have to be aligned to, in memory and in the file.
func (f *File) alignment() (mem, off int) {
	if !f.direct {
		return 0, 1
	}
	var st unix.Statx_t
	err := unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		return int(st.Dio_mem_align), int(st.Dio_offset_align)
	}
	if block, err := unix.IoctlGetInt(f.fd, unix.BLKSSZGET); f.device && err == nil {
		return block, block
	}
	return target.SectorSize, target.SectorSize // a file system that does not say, before Linux 6.1 all
}

// inMemory reports whether a sync of the file waits for nothing. A device's does, wherever its node
// is.
func inMemory(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && fstype.InMemory(fd)
}

// Close closes the file, and lets another process have it at once: a ring that is being closed may
// keep the kernel's file for a moment.
func (f *File) Close() error {
	if !f.device {
		_ = unix.Flock(f.fd, unix.LOCK_UN) // a file system without locks has none to release
	}
	return f.file.Close()
}

// FD is the descriptor for secondaries, valid until Close.
func (f *File) FD() int { return f.fd }

// Path is the path that was opened.
func (f *File) Path() string { return f.path }

// Size is the size in bytes that the file had when it was opened.
func (f *File) Size() int64 { return f.size }

// Direct reports whether transfers go past the page cache.
func (f *File) Direct() bool { return f.direct }

// InMemory reports whether Sync waits for nothing.
func (f *File) InMemory() bool { return f.inMemory }

// Discards reports whether Discard works.
func (f *File) Discards() bool { return f.discards }

// MemAlign is what the memory of transfers has to be aligned to, in bytes; 0: nothing.
func (f *File) MemAlign() int { return f.memAlign }

// OffAlign is what places and lengths of transfers have to be multiples of, in bytes.
func (f *File) OffAlign() int { return f.offAlign }

// Measure asks for the size that the file has now, in bytes.
func (f *File) Measure() (int64, error) {
	size, err := f.file.Seek(0, io.SeekEnd) // of a block device too, whose stat has no size
	if err != nil {
		return 0, fmt.Errorf("size of backing file %s: %w", f.path, err)
	}
	return size, nil
}

// BlockSize chooses the block size of a device over files: want, or if that is 0 the least that
// suits all of them. Transfers of one block must be possible in each file, and each file must
// consist of whole blocks.
func BlockSize(want int, files ...*File) (int, error) {
	block := want
	if want == 0 {
		block = target.SectorSize
		for _, f := range files {
			block = max(block, f.offAlign)
		}
	}
	for _, f := range files {
		switch {
		case f.offAlign > block:
			return 0, fmt.Errorf("%w: blocks of %d bytes are too small: direct I/O to backing file %s has to be aligned to %d; use that, or buffered I/O",
				queue.ErrInvalid, block, f.path, f.offAlign)
		case f.size == 0:
			return 0, fmt.Errorf("%w: backing file %s is empty", queue.ErrInvalid, f.path)
		case f.size%int64(block) != 0:
			return 0, fmt.Errorf("%w: backing file %s has %d bytes, no multiple of the block size %d", queue.ErrInvalid, f.path, f.size, block)
		}
	}
	return block, nil
}
