package blockdev

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/devnode"
	"varve/blockdev/target/loop"
	"varve/uring/queue"
)

// gatedLoop is a loop target whose reads pass a gate first.
type gatedLoop struct {
	*loop.Loop
	gate func(context.Context)
}

func (g gatedLoop) NewPart(q *queue.Queue) (queue.Part, error) {
	part, err := g.Loop.NewPart(q)
	if err != nil {
		return nil, err
	}
	return queue.Handlers{New: func() queue.Handler { return gatedHandler{part.NewHandler(0), g.gate} }}, nil
}

type gatedHandler struct {
	queue.Handler
	gate func(context.Context)
}

func (h gatedHandler) Start(r *queue.Request) (queue.Action, error) {
	if r.Op == queue.OpRead {
		return queue.Handoff, nil
	}
	return h.Handler.Start(r)
}

func (h gatedHandler) Work(ctx context.Context, r *queue.Request) (queue.Action, error) {
	if r.Op != queue.OpRead {
		return h.Handler.Work(ctx, r)
	}
	h.gate(ctx)
	return h.Handler.Start(r)
}

// partitionedFile is a disk of 4 MiB with one partition, of 1 MiB.
func partitionedFile(t *testing.T) string {
	t.Helper()
	path := loopFile(t, 4<<20)
	mbr := make([]byte, 512)
	entry := mbr[446:]
	entry[4] = 0x83                                 // Linux
	binary.LittleEndian.PutUint32(entry[8:], 2048)  // first sector
	binary.LittleEndian.PutUint32(entry[12:], 2048) // sectors
	mbr[510], mbr[511] = 0x55, 0xaa
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(mbr); err != nil {
		t.Fatal(err)
	}
	return path
}

func isBlockDevice(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// eachScan runs f with a driver that leaves the scan to the server, and with one that scans by
// itself.
func eachScan(t *testing.T, f func(t *testing.T, o Options)) {
	for name, without := range map[string]uint64{"server": 0, "driver": _UBLK_F_NO_AUTO_PART_SCAN} {
		t.Run(name, func(t *testing.T) {
			requireUblk(t, _UBLK_F_NO_AUTO_PART_SCAN)
			f(t, Options{without: without})
		})
	}
}

// Partitions are there when ScanPartitions returns, however slow the disk is, and nobody has to
// wait for the disk's open mutex any more.
func TestScanPartitions(t *testing.T) {
	eachScan(t, func(t *testing.T, o Options) {
		slow := gatedLoop{openLoop(t, partitionedFile(t), loop.Options{}), func(context.Context) { time.Sleep(100 * time.Millisecond) }}
		d := startDevice(t, slow, o)
		if isBlockDevice(d.Path() + "p1") {
			t.Fatal("the partition is there before its table can have been read: this proves nothing")
		}
		if err := d.ScanPartitions(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !isBlockDevice(d.Path() + "p1") {
			t.Errorf("%sp1 is not there", d.Path())
		}
	})
}

// A scan that the disk holds up is given up in time, goes on, and its partitions appear when it
// ends.
func TestScanPartitionsIsBounded(t *testing.T) {
	eachScan(t, func(t *testing.T, o Options) {
		pass := make(chan struct{})
		d := startDevice(t, gatedLoop{openLoop(t, partitionedFile(t), loop.Options{}), func(ctx context.Context) {
			select {
			case <-pass:
			case <-ctx.Done():
			}
		}}, o)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		err := d.ScanPartitions(ctx)
		if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "partition table of "+d.Path()) {
			t.Errorf("a scan that stands still: %v, want ErrTimeout that names the partition table and the device", err)
		}
		close(pass)
		for deadline := time.Now().Add(time.Minute); !isBlockDevice(d.Path() + "p1"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%sp1 has not appeared", d.Path())
			}
		}
	})
}

// A server that is killed while the kernel waits for its partition table can be succeeded: nothing
// of it waits for the scan. With its successor the scan ends.
func TestKilledWhileScanning(t *testing.T) {
	requireUblk(t, 0)
	path := partitionedFile(t)
	t.Setenv(childScanEnv, "1")
	child, id := startChild(t, path, CopyAuto, -1)
	time.Sleep(300 * time.Millisecond) // its scanner waits in the kernel
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = child.Wait() // it was killed: that is its error
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the killed server does not end")
	}
	d, err := Recover(t.Context(), id, openLoop(t, path, loop.Options{}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDevice(t, d) })
	for deadline := time.Now().Add(time.Minute); !isBlockDevice(fmt.Sprintf("%sp1", d.Path())); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%sp1 has not appeared", d.Path())
		}
	}
}

// A scanner opens the disk and nothing else: not a file, nor another device, that has taken the
// place of its node.
func TestScannerComparesTheNumber(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ublkb7")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "/dev/null"} {
		out, err := scanner(scanAwait, &devnode.Node{Path: path, Major: 259, Minor: 7}).CombinedOutput()
		if err == nil || !strings.Contains(string(out), devnode.ErrNotDevice.Error()) || !strings.Contains(string(out), "block device 259:7") {
			t.Errorf("%s in the place of block device 259:7: %v: %q", path, err, out)
		}
	}
}
