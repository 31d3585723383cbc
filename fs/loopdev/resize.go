package loopdev

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// resizeLimit is how long Resize waits for the kernel to see the file's size, which it may have
// cached.
const resizeLimit = 5 * time.Second

// Resize sets the size of a loop device to that of its backing file, in bytes.
func Resize(ctx context.Context, device, file string, size int64) error {
	if err := resize(ctx, device, file, size); err != nil {
		return fmt.Errorf("resize %s to %d bytes: %w", device, size, err)
	}
	return nil
}

func resize(ctx context.Context, device, file string, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, resizeLimit)
	defer cancel()
	// The device takes the size that the kernel has in the file's inode (drivers/block/loop.c,
	// lo_calculate_size), and a stat brings that up to date. Not os.Stat: see attach.
	for {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil {
			return fmt.Errorf("stat %s: %w", file, err)
		}
		if st.Size == size {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%s has %d bytes: %w", file, st.Size, err)
		}
	}
	fd, err := openNode(ctx, device, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0); err != nil {
		return permission(err)
	}
	return nil
}
