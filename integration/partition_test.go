//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// TestPartitionsAtAttach: the partitions of a device exist when attach returns, the first time and
// later. From then on nothing waits for the kernel's scan: even if the daemon is killed at that
// moment, the device and its partition can be opened at once by a process that does not read.
func TestPartitionsAtAttach(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	dev := n.volume(ctx, "v", "64M")
	partition(t, dev)
	for range 5 {
		n.varve(ctx, "detach", "v")
		dev = n.attach(ctx, "v")
		for i := 1; i <= 2; i++ {
			if st, err := os.Stat(fmt.Sprintf("%sp%d", dev, i)); err != nil || st.Mode()&os.ModeDevice == 0 {
				t.Fatalf("attach answered %s, and partition %d is not there: %v", dev, i, err)
			}
		}
		n.kill(ctx)
		opensAtOnce(ctx, t, dev)
		opensAtOnce(ctx, t, dev+"p2")
		n.serve(ctx)
	}
	n.stop(ctx, "--detach")
}

// partition writes a DOS partition table with two partitions of 1 MiB, from the second MiB on.
func partition(t *testing.T, dev string) {
	t.Helper()
	table := make([]byte, 512)
	for i := range 2 {
		entry := table[446+16*i:]
		entry[4] = 0x83 // Linux
		binary.LittleEndian.PutUint32(entry[8:], uint32(2048*(i+1)))
		binary.LittleEndian.PutUint32(entry[12:], 2048)
	}
	table[510], table[511] = 0x55, 0xaa
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(table)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// opensAtOnce checks that a device without a server can be opened. It does so in another process,
// which could not be killed if it waited.
func opensAtOnce(ctx context.Context, t *testing.T, dev string) {
	t.Helper()
	opened := start(t, "sh", "-c", ": <"+dev)
	select {
	case <-opened.done:
		if opened.err != nil {
			t.Errorf("open %s: %v %s", dev, opened.err, opened.out.String())
		}
	case <-ctx.Done():
		t.Errorf("%s is not open after the test's time: it waits for the disk's open mutex", dev)
	}
}
