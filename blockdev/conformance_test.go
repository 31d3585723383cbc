package blockdev

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/nbd"
	"varve/blockdev/target/nbd/nbdtest"
	"varve/blockdev/target/null"
	"varve/blockdev/target/stripe"
	"varve/blockdev/target/targettest"
	"varve/blockdev/target/volume"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// realDisk is a block device of the kernel's as the conformance suite uses disks.
type realDisk struct{ plain, sync *os.File }

func openRealDisk(t *testing.T, path string) realDisk {
	return realDisk{openDisk(t, path, os.O_RDWR), openDisk(t, path, os.O_RDWR|unix.O_DSYNC)}
}

// Do implements targettest.Disk. A write with O_DSYNC is one with FUA.
func (d realDisk) Do(io *queuetest.IO) error {
	f := d.plain
	if io.FUA {
		f = d.sync
	}
	switch io.Op {
	case queue.OpRead:
		buf := aligned(len(io.Data), 0)
		_, err := f.ReadAt(buf, io.Off)
		copy(io.Data, buf)
		return err
	case queue.OpWrite:
		buf := aligned(len(io.Data), 0)
		copy(buf, io.Data)
		_, err := f.WriteAt(buf, io.Off)
		return err
	case queue.OpFlush:
		return f.Sync()
	case queue.OpDiscard:
		return blockRange(f, unix.BLKDISCARD, int(io.Off), io.Len)
	case queue.OpWriteZeroes:
		return blockRange(f, unix.BLKZEROOUT, int(io.Off), io.Len)
	default:
		return fmt.Errorf("no call for %v", io.Op)
	}
}

// newStripe is a stripe of size bytes or a little more over n files, in the smallest chunks.
func newStripe(t *testing.T, n int, size int64) *stripe.Stripe {
	t.Helper()
	var legs []string
	for range n {
		legs = append(legs, loopFile(t, stripe.DataOffset+int64(roundUp(int(size)/n, stripe.MinChunkSize))))
	}
	s, err := stripe.Open(legs, stripe.Options{Format: true, ChunkSize: stripe.MinChunkSize, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openNBD is an export of a server in this process.
func openNBD(t *testing.T, o nbdtest.Options) *nbd.Target {
	t.Helper()
	d, err := nbd.Open(t.Context(), nbdtest.Start(t, o).URI(), nbd.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Every target passes the conformance suite's model on the real device too, in every copy mode,
// with transfers that are cut short and secondaries that fail.
func TestDeviceConformance(t *testing.T) {
	const size = 4 << 20
	targets := []struct {
		name string
		open func(t *testing.T) target.Target
	}{
		{"null", func(*testing.T) target.Target { return null.New(size, 512) }},
		{"loop", func(t *testing.T) target.Target { return openLoop(t, loopFile(t, size), loop.Options{}) }},
		{"stripe", func(t *testing.T) target.Target { return newStripe(t, 3, size) }},
		{"nbd", func(t *testing.T) target.Target {
			return openNBD(t, nbdtest.Options{Size: size, Structured: true, Mixed: true})
		}},
		{"volume", func(t *testing.T) target.Target { return volume.New(openVolume(t, size, 512)) }},
	}
	eachMode(t, func(t *testing.T, o Options) {
		for _, tt := range targets {
			t.Run(tt.name, func(t *testing.T) {
				var faults queuetest.Faults
				disk := tt.open(t)
				o.newRing = faults.NewRing
				d := startDevice(t, disk, o)
				onDisk := openRealDisk(t, d.Path())
				m := targettest.ModelOptions{Limits: disk.Limits(), NoData: tt.name == "null"}
				targettest.Model(t, onDisk, m)
				faults.Set(0.3, 0)
				targettest.Model(t, onDisk, m)
				faults.Set(0.2, 0.02)
				m.Retries = 50
				targettest.Model(t, onDisk, m)
				if short, failing := faults.Made(); tt.name != "null" && (short == 0 || failing == 0) {
					t.Errorf("%d short and %d failing secondaries: this proves nothing", short, failing)
				}
				if s := d.Stats(); s.Panics != 0 || tt.name != "null" && tt.name != "nbd" && s.Errors == 0 { // nbd sends again what has failed
					t.Errorf("stats %+v", s)
				}
				onDisk.plain.Close()
				onDisk.sync.Close()
			})
		}
	})
}
