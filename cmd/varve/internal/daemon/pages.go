package daemon

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// DropPagesCommand is the hidden command with which a daemon runs DropPages in a process of its own.
const DropPagesCommand = "drop-pages"

// pagesTimeout bounds the wait for the kernel to write and forget the pages of a device, or of live files.
const pagesTimeout = 30 * time.Second

// DropPages has the kernel write what it keeps of a block device in its page cache, and forget it.
func DropPages(node string) error {
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", node, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("drop the pages of %s: %w", node, err)
	}
	return nil
}

// dropDevicePages has the kernel forget what it keeps of a volume's device, if that has one: the volume was written by
// its live file. A process of its own waits for the device then: this one could not be killed while it waits for itself.
func (d *Daemon) dropDevicePages(volume string) {
	d.mu.Lock()
	k := d.attached[volume]
	d.mu.Unlock()
	if k == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), pagesTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", DropPagesCommand, k.Device)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		d.log.Warn("buffered reads of the device may show what is old", "volume", volume, "device", k.Device, "error", err,
			"output", strings.TrimSpace(string(out)))
	}
}

// mayWriteLive implements devices.
func (d *Daemon) mayWriteLive(volume string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a, taken := d.taken(volume); taken {
		return fmt.Errorf("volume %q: %w: attached as %s; detach it, or mount with --shared-live", volume, objstore.ErrInUse, a.Device)
	}
	return nil
}

// refreshLive has the kernel forget what it keeps of a volume's live file in all mounts, when the volume gets a device
// or has lost it. It waits for that, but not for ever.
func (d *Daemon) refreshLive(volume string) {
	d.mu.Lock()
	mounts := make([]mounted, 0, len(d.mounts))
	for _, k := range d.mounts {
		mounts = append(mounts, k.m)
	}
	d.mu.Unlock()
	done := make(chan struct{})
	d.watchers.Go(func() {
		defer close(done)
		for _, m := range mounts {
			m.Refresh(volume)
		}
	})
	select {
	case <-done:
	case <-time.After(pagesTimeout):
		d.log.Warn("mappings of the live file may show what is old", "volume", volume)
	}
}
