//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLogOrder shows that the logs that TestPowerCut reads can be trusted: threads write, flush, and
// vouch by a FUA write for what was flushed. In the log no voucher may come before its data.
func TestLogOrder(t *testing.T) {
	const (
		threads = 6
		magic   = 0x766f7563686572
		block   = 4096
	)
	rounds := crashNumber(t, "VARVE_CRASH_FLUSHES", 500)
	ctx := limit(t, time.Minute+time.Duration(rounds)*100*time.Millisecond)
	image, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	for _, err := range []error{os.WriteFile(image, nil, 0o600), os.Truncate(image, 256<<20)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dev := mapper(ctx, t, "order", losetup(ctx, t, image, "--direct-io=on"), filepath.Join(dir, "log"))
	var work sync.WaitGroup
	for thread := range threads {
		work.Go(func() {
			if err := vouch(ctx, dev, rounds, func(b []byte, voucher bool, n int) int64 {
				what := 0
				if voucher {
					what = 1
				}
				for i, v := range []uint64{magic, uint64(thread), uint64(what), uint64(n)} {
					binary.LittleEndian.PutUint64(b[8*i:], v)
				}
				return int64(2*thread+what) * 1 << 20
			}); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	unmap(ctx, t, "order")
	log, _ := readLog(t, filepath.Join(dir, "log"))
	var data [threads]uint64
	vouchers := 0
	buf := make([]byte, block)
	for i := range log.Entries {
		e := &log.Entries[i]
		if e.Len != block || e.Discard {
			continue
		}
		b, err := log.Data(i, buf)
		if err != nil {
			t.Fatal(err)
		}
		if binary.LittleEndian.Uint64(b) != magic {
			continue
		}
		thread, voucher, n := binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]) == 1, binary.LittleEndian.Uint64(b[24:])
		if !voucher {
			data[thread] = n
			continue
		}
		if vouchers++; data[thread] != n {
			t.Errorf("entry %d of the log: thread %d vouches for its write %d, and the log so far has %d", i, thread, n, data[thread])
		}
	}
	if vouchers != threads*rounds {
		t.Errorf("%d vouchers in the log, want %d", vouchers, threads*rounds)
	}
}

// vouch writes rounds blocks and a voucher for each. put fills a block and returns where it goes.
func vouch(ctx context.Context, dev string, rounds int, put func(b []byte, voucher bool, n int) int64) error {
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	for n := 1; n <= rounds && ctx.Err() == nil; n++ {
		off := put(b, false, n)
		if _, err := unix.Pwrite(fd, b, off); err != nil {
			return err
		}
		if err := unix.Fdatasync(fd); err != nil {
			return err
		}
		off = put(b, true, n)
		if _, err := unix.Pwritev2(fd, [][]byte{b}, off, unix.RWF_DSYNC); err != nil {
			return err
		}
	}
	return ctx.Err()
}
