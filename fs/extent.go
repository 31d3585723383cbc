package fs

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// seek implements SEEK_DATA and SEEK_HOLE of lseek(2): the end of the file is a hole.
func seek(ctx context.Context, im Image, off int64, whence uint32) (int64, error) {
	size := im.Size()
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	if off < 0 || off >= size {
		return 0, unix.ENXIO
	}
	for off < size {
		hole, n, err := extent(ctx, im, off)
		if err != nil {
			return 0, err
		}
		if hole == (whence == unix.SEEK_HOLE) {
			return off, nil
		}
		off += n
	}
	if whence == unix.SEEK_HOLE {
		return size, nil
	}
	return 0, unix.ENXIO
}

// extent is im.Extent that obeys ctx and never reaches past the end of the image.
func extent(ctx context.Context, im Image, off int64) (hole bool, n int64, err error) {
	if err := ctx.Err(); err != nil {
		return false, 0, err
	}
	hole, n, err = im.Extent(ctx, off)
	if err != nil {
		return false, 0, err
	}
	if n <= 0 {
		return false, 0, fmt.Errorf("extent at %d: length %d", off, n)
	}
	return hole, min(n, im.Size()-off), nil
}

// Limits of one stat(2)'s count: extents and time.
const (
	maxCounted   = 1 << 16
	countingTime = 200 * time.Millisecond
)

// allocated counts the bytes that are not holes. When a limit ends the count early, the rest counts
// as data and exact is false: too many blocks are harmless, too few would make tar and cp take a
// file for empty.
func allocated(ctx context.Context, im Image) (data int64, exact bool, err error) {
	end := time.Now().Add(countingTime)
	var off int64
	for range maxCounted {
		if off >= im.Size() {
			return data, true, nil
		}
		if time.Now().After(end) {
			break
		}
		hole, n, err := extent(ctx, im, off)
		if err != nil {
			return 0, false, err
		}
		if !hole {
			data += n
		}
		off += n
	}
	return data + im.Size() - off, off == im.Size(), nil
}
