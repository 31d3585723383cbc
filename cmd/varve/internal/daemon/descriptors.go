package daemon

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/protocol"
	"varve/fs"
	"varve/objstore"
)

// A daemon without free descriptors cannot serve its devices: writes need new segments now and
// then, and each snapshot needs a journal. So a part of the limit is reserved for what is served,
// and new devices, mounts and open files of mounts are refused while only that is left.
const (
	// descriptorReserve is the divisor of the limit that gives the reserve; leastReserve is its
	// minimum.
	descriptorReserve = 8
	leastReserve      = 32
	// deviceDescriptors is about what a device takes: its char device and rings, the volume's
	// segment and journals.
	deviceDescriptors = 16
	// laterDescriptors is what a device may need in addition once it is written to.
	laterDescriptors = 6
	// descriptorsAge is the age up to which a count is reused when a file is opened: counting reads
	// a directory.
	descriptorsAge = 100 * time.Millisecond
)

// descriptors counts the process's open files.
type descriptors struct {
	mu    sync.Mutex
	at    time.Time // when it was counted
	count protocol.OpenFiles
}

// use returns the number of open files and its limit. The count is at most as old as age.
func (d *descriptors) use(age time.Duration) (protocol.OpenFiles, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.at.IsZero() && time.Since(d.at) < age {
		return d.count, nil
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return d.count, fmt.Errorf("limit of open files: %w", err)
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return d.count, err
	}
	defer func() { _ = dir.Close() }() // nothing was written
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return d.count, err
	}
	d.at = time.Now()
	d.count = protocol.OpenFiles{Open: len(names) - 1, Limit: int64(min(lim.Cur, 1<<62))} // one is the directory
	return d.count, nil
}

// mayTake returns protocol.ErrOverloaded if taking n more descriptors would leave less than the
// reserve.
func (d *descriptors) mayTake(n int, age time.Duration) error {
	c, err := d.use(age)
	if err == nil && int64(c.Open+n) <= c.Limit-max(c.Limit/descriptorReserve, leastReserve) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%d of at most %d files are open, and the rest is reserved for devices and mounts in service: "+
			"detach or unmount something, or start the daemon with a higher limit (ulimit -n, LimitNOFILE=)", c.Open, c.Limit)
	}
	return fmt.Errorf("%w: %w", protocol.ErrOverloaded, err)
}

// sparing is the store as a mount sees it: nothing more is opened while only the reserve of
// descriptors is left.
type sparing struct {
	fs.Source
	files *descriptors
}

func newSparing(store *objstore.Store, files *descriptors) fs.Source {
	return sparing{fs.Store(store), files}
}

// mayOpen is mayTake for one open file, with an errno for the opener.
func (s sparing) mayOpen() error {
	if err := s.files.mayTake(deviceDescriptors/2, descriptorsAge); err != nil {
		return fmt.Errorf("%w: %w", unix.ENFILE, err)
	}
	return nil
}

// OpenVolume implements fs.Source.
func (s sparing) OpenVolume(name, user string) (fs.Volume, error) {
	if err := s.mayOpen(); err != nil {
		return nil, err
	}
	return s.Source.OpenVolume(name, user)
}

// OpenSnapshot implements fs.Source.
func (s sparing) OpenSnapshot(volume, snap string) (fs.Image, error) {
	if err := s.mayOpen(); err != nil {
		return nil, err
	}
	return s.Source.OpenSnapshot(volume, snap)
}
