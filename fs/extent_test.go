package fs

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// endless is a disk whose Extent returns a fixed length, even beyond the end, or an error.
type endless struct {
	*fakeDisk
	length int64
	err    error
}

func (e endless) Extent(context.Context, int64) (bool, int64, error) { return false, e.length, e.err }

func TestSeekTrustsNoLength(t *testing.T) {
	for _, whence := range []uint32{unix.SEEK_DATA, unix.SEEK_HOLE} {
		im := endless{newFakeDisk(mib), 1 << 50, nil}
		off, err := seek(t.Context(), im, 100, whence)
		if want := map[uint32]int64{unix.SEEK_DATA: 100, unix.SEEK_HOLE: mib}[whence]; err != nil || off != want {
			t.Errorf("whence %d: %d, %v; want %d", whence, off, err, want)
		}
	}
	if _, err := seek(t.Context(), endless{newFakeDisk(mib), 0, nil}, 0, unix.SEEK_HOLE); err == nil {
		t.Error("an extent without length: no error")
	}
	lost := endless{newFakeDisk(mib), 0, objstore.ErrCorrupt}
	if _, err := seek(t.Context(), lost, 0, unix.SEEK_HOLE); !errors.Is(err, objstore.ErrCorrupt) {
		t.Errorf("an extent that can't be read: %v", err)
	}
}

func TestSeekIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := seek(ctx, newFakeDisk(mib), 0, unix.SEEK_DATA)
	if e := errno(err); e != unix.EINTR {
		t.Errorf("%v becomes %s, want EINTR", err, unix.ErrnoName(e))
	}
}

// Extents that a limited count does not reach are reported as data, so that no program takes the
// file for empty.
func TestAllocatedNeverTooSmall(t *testing.T) {
	d := newFakeDisk(4 * maxCounted * objstore.SectorSize)
	sector := make([]byte, objstore.SectorSize)
	for i := range int64(2 * maxCounted) {
		if _, err := d.write(sector, 2*i*objstore.SectorSize); err != nil {
			t.Fatal(err)
		}
	}
	n, exact, err := allocated(t.Context(), d)
	if err != nil || exact || n < d.data() || n > d.size {
		t.Errorf("counted %d, exactly: %v, %v; there are %d of %d", n, exact, err, d.data(), d.size)
	}
	small := newFakeDisk(mib)
	if _, err := small.write(make([]byte, 5000), 1000); err != nil {
		t.Fatal(err)
	}
	if n, exact, err := allocated(t.Context(), small); err != nil || !exact || n != small.data() {
		t.Errorf("counted %d, exactly: %v, %v; there are %d", n, exact, err, small.data())
	}
}

func TestErrno(t *testing.T) {
	for want, err := range map[unix.Errno]error{
		0:           nil,
		unix.ENOENT: objstore.ErrNotFound,
		unix.EBUSY:  objstore.ErrInUse,
		unix.EEXIST: objstore.ErrExists,
		unix.EINVAL: objstore.ErrInvalid,
		unix.ENODEV: objstore.ErrClosed,
		unix.ENOSPC: errors.Join(errors.New("segment 3"), objstore.ErrNoSpace),
		unix.EROFS:  objstore.ErrReadOnly,
		unix.EIO:    &objstore.CorruptError{File: "segments/1", Err: unix.ENOENT},
		unix.EDQUOT: unix.EDQUOT,
	} {
		if got := errno(err); got != want {
			t.Errorf("%v becomes %s, want %s", err, unix.ErrnoName(got), unix.ErrnoName(want))
		}
	}
}
