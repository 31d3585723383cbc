package targettest

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"varve/blockdev/target"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// Disk is what serves requests: a queuetest.Device, or a real block device.
type Disk interface {
	Do(io *queuetest.IO) error
}

// ModelOptions of Model.
type ModelOptions struct {
	Limits  target.Limits
	NoData  bool // what is read is not looked at
	Retries int  // of a request that fails
	Steps   int  // of each client; 0: 80
}

// clients is how many goroutines use the disk together, each a part of it.
const clients = 4

// discardUnit in bytes is what a discard is made of; what is discarded reads as zeroes on every
// target.
const discardUnit = 4096

// largest request in bytes.
const largest = 256 << 10

// Model does random operations on a disk and compares what it reads with what it should hold.
func Model(t *testing.T, d Disk, o ModelOptions) {
	t.Helper()
	o.Limits.EnsureDefaults()
	if o.Steps == 0 {
		o.Steps = 80
	}
	area := min(o.Limits.Size/clients, 1<<20) &^ (discardUnit - 1)
	var running sync.WaitGroup
	for i := range clients {
		c := &client{
			t: t, d: d, o: o, base: int64(i) * area, model: make([]byte, area),
			rnd: rand.New(rand.NewPCG(7, uint64(i))),
		}
		running.Go(c.run)
	}
	running.Wait()
}

// client uses its part of the disk.
type client struct {
	t     *testing.T
	d     Disk
	o     ModelOptions
	base  int64
	model []byte
	rnd   *rand.Rand
}

func (c *client) run() {
	if !c.o.Limits.ReadOnly {
		for off := 0; off < len(c.model); off += largest { // the disk may hold anything
			n := min(largest, len(c.model)-off)
			if !c.do(queuetest.IO{Op: queue.OpWrite, Off: int64(off), Data: c.model[off : off+n]}) {
				return
			}
		}
	}
	for range c.o.Steps {
		if !c.step() {
			return
		}
	}
	c.check(0, min(largest, len(c.model)))
}

// do has a request served; false: the test has failed.
func (c *client) do(io queuetest.IO) bool {
	io.Off += c.base
	var err error
	for range 1 + c.o.Retries {
		if err = c.d.Do(&io); err == nil {
			return true
		}
	}
	c.t.Errorf("%v of %d bytes at %d: %v", io.Op, max(io.Len, len(io.Data)), io.Off, err)
	return false
}

// place is a random range of whole units.
func (c *client) place(unit int) (off, n int) {
	most := []int{unit, 4 * unit, 64 << 10, largest}[c.rnd.IntN(4)]
	n = unit * (1 + c.rnd.IntN(max(1, min(most, len(c.model))/unit)))
	off = unit * c.rnd.IntN((len(c.model)-n)/unit+1)
	return off, n
}

func (c *client) step() bool {
	lim := &c.o.Limits
	off, n := c.place(lim.BlockSize)
	switch op := c.rnd.IntN(12); {
	case op < 4 && !lim.ReadOnly:
		data := pattern(n, c.rnd.Int64())
		copy(c.model[off:], data)
		return c.do(queuetest.IO{Op: queue.OpWrite, Off: int64(off), Data: data, FUA: lim.Cache && c.rnd.IntN(4) == 0})
	case op == 4 && lim.Discard:
		off, n = c.place(discardUnit)
		clear(c.model[off : off+n])
		return c.do(queuetest.IO{Op: queue.OpDiscard, Off: int64(off), Len: n})
	case op == 5 && lim.Zeroes:
		clear(c.model[off : off+n])
		return c.do(queuetest.IO{
			Op: queue.OpWriteZeroes, Off: int64(off), Len: n,
			NoUnmap: c.rnd.IntN(2) == 0, FUA: lim.Cache && c.rnd.IntN(4) == 0,
		})
	case op == 6 && lim.Cache:
		return c.do(queuetest.IO{Op: queue.OpFlush})
	}
	return c.check(off, n)
}

func (c *client) check(off, n int) bool {
	got := make([]byte, n)
	if !c.do(queuetest.IO{Op: queue.OpRead, Off: int64(off), Data: got}) {
		return false
	}
	want := c.model[off : off+n]
	if c.o.NoData || c.o.Limits.ReadOnly || bytes.Equal(got, want) {
		return true
	}
	i := differs(got, want)
	c.t.Errorf("read of %d bytes at %d: byte %d is %#x, want %#x", n, c.base+int64(off), i, got[i], want[i])
	return false
}
