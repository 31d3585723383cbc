package backing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// Modes of fallocate(2), for secondaries. Where a file has no such call, it fails with EOPNOTSUPP,
// and Discard or Zero does it otherwise.
const (
	// Punch makes a hole. On a block device it zeroes by commands of the device alone, and unmaps
	// where it can (blkdev_fallocate, Linux's block/fops.c, 7.3).
	Punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	// ZeroRange makes zeroes that keep their space.
	ZeroRange = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
)

// Sync makes everything that was written durable. It may block, unless InMemory.
func (f *File) Sync() error { return unix.Fdatasync(f.fd) }

// Discard frees the space of a range, in bytes. The range reads as zeroes afterwards, but for block
// devices that can't promise it. It may block.
func (f *File) Discard(off, length int64) error {
	err := unix.Fallocate(f.fd, Punch, off, length)
	if f.device && errors.Is(err, unix.EOPNOTSUPP) {
		err = blkDiscard(f.fd, off, length)
	}
	return err
}

// blkDiscard is the ioctl BLKDISCARD.
func blkDiscard(fd int, off, length int64) error {
	r := binary.NativeEndian.AppendUint64(nil, uint64(off))
	r = binary.NativeEndian.AppendUint64(r, uint64(length))
	err := unix.IoctlSetInt(fd, unix.BLKDISCARD, int(uring.Address(r)))
	runtime.KeepAlive(r)
	return err
}

// Zero makes a range in bytes read as zeroes. With keep its space stays allocated, where the file
// system can do that. It may block.
func (f *File) Zero(off, length int64, keep bool) error {
	err := error(unix.EOPNOTSUPP)
	if !keep {
		err = unix.Fallocate(f.fd, Punch, off, length)
	}
	if errors.Is(err, unix.EOPNOTSUPP) && (keep || f.device) {
		err = unix.Fallocate(f.fd, ZeroRange, off, length)
	}
	if errors.Is(err, unix.EOPNOTSUPP) && keep && !f.device { // tmpfs
		if err = unix.Fallocate(f.fd, Punch, off, length); err == nil {
			err = unix.Fallocate(f.fd, unix.FALLOC_FL_KEEP_SIZE, off, length)
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.writeZeroes(off, length)
	}
	return err
}

// zeroes is what writeZeroes writes at once.
var zeroes = Memory(1 << 20)

func (f *File) writeZeroes(off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if err := f.WriteAt(zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// canDiscard finds out whether Discard works. A file system is asked for a hole beyond the end of
// the file, which changes nothing.
func (f *File) canDiscard() bool {
	if !f.device {
		const beyond = 1 << 20
		return unix.Fallocate(f.fd, Punch, (f.size+beyond)&^(beyond-1), beyond) == nil
	}
	var st unix.Stat_t
	if unix.Fstat(f.fd, &st) != nil {
		return false
	}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, queue := range []string{"queue", "../queue"} { // a partition has its disk's
		b, err := os.ReadFile(dev + "/" + queue + "/discard_max_bytes") // not cleaned: dev is a link
		if err != nil {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		return err == nil && n > 0
	}
	return false
}
