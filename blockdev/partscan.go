package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/devnode"
)

// The kernel reads a new disk's partition table with the disk's open mutex held, by reads that this
// process has to serve and that no signal interrupts (block/partitions/core.c; do_read_cache_folio,
// mm/filemap.c, 7.3). A thread of this process that waits for the scan, or only for the mutex in
// open(2), keeps a killed process from ending and its character device from being released: no
// successor could take the device over, and no process would ever serve that read. So a process of
// its own does both. It shares no file and no memory with this one, and may wait for a successor.

// scanLimit is how long a scan of the partition table may take.
const scanLimit = 10 * time.Second

// scannerName is the name, argv[0], under which this program only scans: it starts itself again.
const scannerName = "varve-scan-partitions"

// What a scanner is asked for: its first argument.
const (
	scanNow   = "scan"  // read the partition table
	scanAwait = "await" // wait for the kernel's own scan, which has begun
)

func init() {
	if len(os.Args) != 4 || os.Args[0] != scannerName {
		return
	}
	if err := scan(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprint(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ScanPartitions has the kernel read the partition table of a device that is served; when it
// returns, the partitions are there. A driver without UBLK_F_NO_AUTO_PART_SCAN scans by itself when
// the device starts: then ScanPartitions waits for that scan.
//
// A zoned disk has no partitions (GENHD_FL_NO_PART, block/genhd.c, Linux 7.3).
//
// ctx and a limit of 10 seconds bound the wait. After ErrTimeout the scan continues, and partitions
// appear when it has ended.
func (d *Device) ScanPartitions(ctx context.Context) error {
	if d.has(_UBLK_F_ZONED) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	what := scanNow
	if !d.has(_UBLK_F_NO_AUTO_PART_SCAN) {
		what = scanAwait
		if err := scanBegun(ctx, d.id); err != nil {
			return fmt.Errorf("partition table of %s: %w", d.Path(), err)
		}
	}
	_, disk, err := nodes(ctx, d.ctl, d.id)
	var ended <-chan error
	if err == nil {
		ended, err = d.startScanner(what, &disk)
	}
	if err == nil {
		select {
		case err = <-ended:
		case <-ctx.Done():
			err = fmt.Errorf("%w: the kernel is still reading it", ErrTimeout)
		}
	}
	if err != nil {
		return fmt.Errorf("partition table of %s: %w", d.Path(), err)
	}
	return nil
}

// startScanner starts a process that scans. The channel receives the scanner's result when that has
// ended, which is with the device at the latest: Stop waits for it too.
func (d *Device) startScanner(what string, disk *devnode.Node) (<-chan error, error) {
	cmd := scanner(what, disk)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // no Ctrl-C of a terminal reaches it
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start its scanner: %w", err)
	}
	ended := make(chan error, 1)
	d.scanners.Go(func() {
		err := cmd.Wait()
		if s := strings.TrimSpace(stderr.String()); err != nil && s != "" {
			err = errors.New(s)
		}
		ended <- err
	})
	return ended, nil
}

// scanner is the process that scans: this program under another name, with what to do, the disk's
// path and its number.
func scanner(what string, disk *devnode.Node) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{scannerName, what, disk.Path, fmt.Sprintf("%d:%d", disk.Major, disk.Minor)}
	return cmd
}

// scanBegun waits until the driver's own scan, which is a work item of the kernel's, has begun:
// until then the disk is one without partition scan (ublk_partition_scan_work, 7.3). It takes the
// disk's open mutex as the next thing it does. Drivers that scan inside START_DEV have done it by
// then.
func scanBegun(ctx context.Context, id int) error {
	return retry(ctx, scanLimit, func() (bool, error) {
		b, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/partscan", id))
		if err == nil && strings.TrimSpace(string(b)) == "0" {
			return true, errors.New("the kernel has not begun to read it")
		}
		return false, nil // begun, or an older kernel without the attribute
	})
}

// scan is what a scanner does. open(2) waits for the disk's open mutex. What is at the path may
// have changed since the server looked: another device must not be scanned instead of the disk, nor
// a file be taken for it.
func scan(what, path, number string) error {
	disk := devnode.Node{Path: path}
	if _, err := fmt.Sscanf(number, "%d:%d", &disk.Major, &disk.Minor); err != nil {
		return fmt.Errorf("device number %q: %w", number, err)
	}
	fd, err := disk.Open(unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if what != scanNow {
		return nil
	}
	return retry(context.Background(), scanLimit, func() (bool, error) {
		err := unix.IoctlSetInt(fd, unix.BLKRRPART, 0)
		return errors.Is(err, unix.EBUSY), err // the scanner of a daemon before us may still be at it
	})
}
