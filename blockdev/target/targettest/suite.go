// Package targettest holds every target to the same behaviour, as testing/fstest does file systems.
//
// Test serves a target by a device without a kernel driver (uring/queue/queuetest): every operation
// at every kind of place against a model of bytes, from many goroutines, with transfers that the
// kernel cuts short and secondaries that fail, with operations that it can't know, and with a stop
// in the middle. Model alone runs on any disk: on a target behind a real device too.
package targettest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// Options of a Test.
type Options struct {
	// Open makes a fresh target of at least 1 MiB, which t.Cleanup closes. Its bytes may be any.
	Open func(t *testing.T) target.Target
	// NoData is for a disk that moves no bytes: what is read is not looked at.
	NoData bool
	// NoFailures is for a target that can't be served any more once a secondary has failed: a
	// connection.
	NoFailures bool
	// NoSecondaries is for a target that transfers nothing by secondaries, so that no fault can
	// reach it.
	NoSecondaries bool
}

// stopLimit bounds how long a device may take to stop.
const stopLimit = 20 * time.Second

// Test runs the suite.
func Test(t *testing.T, o Options) {
	for _, lending := range queuetest.Lendings {
		t.Run(string(lending), func(t *testing.T) {
			t.Run("Model", func(t *testing.T) {
				tt := o.Open(t)
				d := start(t, tt, lending, nil)
				Model(t, d, ModelOptions{Limits: tt.Limits(), NoData: o.NoData})
			})
			t.Run("Faults", func(t *testing.T) { testFaults(t, o, lending) })
			t.Run("Bounds", func(t *testing.T) { testBounds(t, o, lending) })
			t.Run("Unknown", func(t *testing.T) { testUnknown(t, o, lending) })
			t.Run("TakenBack", func(t *testing.T) { testStop(t, o, lending, (*queuetest.Device).TakeBack) })
			t.Run("Stopped", func(t *testing.T) {
				testStop(t, o, lending, func(d *queuetest.Device) { d.Server().Stop(); d.TakeBack() })
			})
		})
	}
}

func start(t *testing.T, tt target.Target, l queuetest.Lending, f *queuetest.Faults) *queuetest.Device {
	t.Helper()
	lim := tt.Limits()
	lim.EnsureDefaults()
	if err := lim.Validate(); err != nil {
		t.Fatal(err)
	}
	if lim.Size < 1<<20 {
		t.Fatalf("the target has %d bytes, the suite needs 1 MiB", lim.Size)
	}
	return queuetest.Start(t, queuetest.Options{Lending: l, NewPart: tt.NewPart, Faults: f})
}

// testFaults runs the model while transfers are cut short, and then while some fail. A request that
// fails is tried again.
func testFaults(t *testing.T, o Options, l queuetest.Lending) {
	tt := o.Open(t)
	var faults queuetest.Faults
	d := start(t, tt, l, &faults)
	m := ModelOptions{Limits: tt.Limits(), NoData: o.NoData}
	faults.Set(0.4, 0)
	Model(t, d, m)
	if !o.NoFailures {
		faults.Set(0.2, 0.02)
		m.Retries = 100
		Model(t, d, m)
	}
	short, failing := faults.Made()
	if !o.NoData && !o.NoSecondaries && (short == 0 || failing == 0 && !o.NoFailures) {
		t.Errorf("%d short and %d failing secondaries: this proves nothing", short, failing)
	}
	if s := d.Server().Stats(); s.Panics != 0 {
		t.Errorf("%d panics", s.Panics)
	}
}

// testBounds reads and writes the first and the last block, and as much as a request may have.
func testBounds(t *testing.T, o Options, l queuetest.Lending) {
	tt := o.Open(t)
	d := start(t, tt, l, nil)
	lim := tt.Limits()
	lim.EnsureDefaults()
	const most = 256 << 10
	for _, r := range []struct {
		off int64
		n   int
	}{
		{0, lim.BlockSize},
		{lim.Size - int64(lim.BlockSize), lim.BlockSize},
		{0, most},
		{lim.Size - most, most},
		{int64(lim.BlockSize), most - lim.BlockSize},
	} {
		w := pattern(r.n, r.off)
		err := d.Do(&queuetest.IO{Op: queue.OpWrite, Off: r.off, Data: w})
		if lim.ReadOnly {
			if err == nil {
				t.Errorf("a read-only disk took %d bytes at %d", r.n, r.off)
			}
			continue
		}
		got := make([]byte, r.n)
		if err = errors.Join(err, d.Do(&queuetest.IO{Op: queue.OpRead, Off: r.off, Data: got})); err != nil {
			t.Errorf("%d bytes at %d: %v", r.n, r.off, err)
		} else if i := differs(got, w); i >= 0 && !o.NoData {
			t.Errorf("%d bytes at %d: byte %d is %#x, want %#x", r.n, r.off, i, got[i], w[i])
		}
	}
}

// testUnknown asks for what no disk knows: an error, and no harm.
func testUnknown(t *testing.T, o Options, l queuetest.Lending) {
	d := start(t, o.Open(t), l, nil)
	for _, op := range []queue.Op{200, queue.OpZoneOpen, queue.OpZoneAppend, queue.OpZoneReport} {
		io := queuetest.IO{Op: op, Len: 4096}
		if op.Data() != queue.NoData {
			io.Data = make([]byte, 4096)
		}
		if err := d.Do(&io); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%v: %v, want EOPNOTSUPP", op, err)
		}
	}
	if err := d.Do(&queuetest.IO{Op: queue.OpRead, Data: make([]byte, 4096)}); err != nil {
		t.Errorf("a read afterwards: %v", err)
	}
}

// testStop stops a device while it serves: what is under way is answered or left, and everything
// ends.
func testStop(t *testing.T, o Options, l queuetest.Lending, stop func(*queuetest.Device)) {
	tt := o.Open(t)
	d := start(t, tt, l, nil)
	lim := tt.Limits()
	var served, clients sync.WaitGroup
	served.Add(6)
	for i := range 6 {
		clients.Go(func() {
			buf := make([]byte, 32<<10)
			for n := 0; ; n++ {
				io := queuetest.IO{Op: queue.OpRead, Off: int64(i) * 128 << 10, Data: buf}
				switch {
				case n%3 == 1 && !lim.ReadOnly:
					io.Op = queue.OpWrite
				case n%7 == 6 && lim.Cache:
					io = queuetest.IO{Op: queue.OpFlush}
				}
				if n == 20 {
					served.Done()
				}
				err := d.Do(&io)
				if errors.Is(err, queuetest.ErrStopped) {
					return
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("%v: %v", io.Op, err)
				}
				if n == 1<<20 {
					return
				}
			}
		})
	}
	served.Wait()
	stop(d)
	ctx, cancel := context.WithTimeout(t.Context(), stopLimit)
	defer cancel()
	if err := d.Wait(ctx); err != nil {
		t.Fatalf("the device ends with %v", err)
	}
	clients.Wait()
}

// pattern is n bytes that tell where they belong.
func pattern(n int, seed int64) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// differs is the first byte that differs, or -1.
func differs(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
