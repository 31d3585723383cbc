package blockdev

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/loop"
	"varve/blockdev/target/null"
	"varve/blockdev/target/volume"
)

// workersPerCPU is how many of a processor's own requests are under way together.
const workersPerCPU = 3

// twoProcessors gives two processors that this process may run on. A device has no more queues than
// the machine has processors: in the User-Mode test kernel one, so the tests of two queues run in a
// distribution's kernel, where integration/smp/run sets VARVE_REQUIRE_SMP=1 and one processor is a
// failure.
func twoProcessors(t *testing.T) [2]int {
	t.Helper()
	requireUblk(t, 0)
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var cpus []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	if len(cpus) < 2 {
		lack(t, "VARVE_REQUIRE_SMP", "needs two processors, has %d", len(cpus))
	}
	return [2]int(cpus[:2])
}

// queueOf says which hardware queue the kernel gives the processor's requests to.
func queueOf(t *testing.T, d *Device, cpu int) int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/sys/block/%s/mq/*/cpu_list", filepath.Base(d.Path())))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for c := range strings.SplitSeq(strings.TrimSpace(string(b)), ",") {
			if strings.TrimSpace(c) == strconv.Itoa(cpu) {
				q, err := strconv.Atoi(filepath.Base(filepath.Dir(list)))
				if err != nil {
					t.Fatal(err)
				}
				return q
			}
		}
	}
	t.Fatalf("no queue of %s serves processor %d: %q", d.Path(), cpu, lists)
	return 0
}

// pinned reads and writes its own part of a device from one processor.
type pinned struct {
	disk
	cpu     int
	base    int64
	compare bool
	read    uint64 // bytes that the device has served
	written uint64
	rounds  atomic.Int64
}

// run does operations while more says so. Its thread stays on the processor, and ends with the
// goroutine.
func (p *pinned) run(more func(round int) bool) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(p.cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to processor %d: %w", p.cpu, err)
	}
	for i := 0; more(i); i++ {
		off, n := p.randomRange(64 << 10)
		buf := aligned(n, 0)
		if i%3 == 2 {
			if err := p.verify(off, buf); err != nil {
				return err
			}
		} else {
			p.fill(buf)
			if _, err := p.f.WriteAt(buf, p.base+int64(off)); err != nil {
				return fmt.Errorf("processor %d: write of %d at %d: %w", p.cpu, n, p.base+int64(off), err)
			}
			copy(p.model[off:], buf)
			p.written += uint64(n)
		}
		p.rounds.Add(1)
	}
	return p.verify(0, aligned(len(p.model), 0))
}

func (p *pinned) verify(off int, buf []byte) error {
	at := p.base + int64(off)
	n, err := p.f.ReadAt(buf, at)
	p.read += uint64(n)
	if err != nil {
		return fmt.Errorf("processor %d: read of %d at %d: %w", p.cpu, len(buf), at, err)
	}
	if p.compare && !bytes.Equal(buf, p.model[off:off+len(buf)]) {
		return fmt.Errorf("processor %d: read of %d at %d: not what was written", p.cpu, len(buf), at)
	}
	return nil
}

// pinnedWorkers share out the device's size among them.
func pinnedWorkers(t *testing.T, f *os.File, size int64, cpus [2]int, compare bool) []*pinned {
	var ws []*pinned
	area := size / (workersPerCPU * int64(len(cpus)))
	area &^= pageSize - 1
	for i := range workersPerCPU * len(cpus) {
		ws = append(ws, &pinned{
			disk: disk{t: t, f: f, block: 512, model: make([]byte, area), rnd: rand.New(rand.NewPCG(3, uint64(i)))},
			cpu:  cpus[i%2], base: int64(i) * area, compare: compare,
		})
	}
	return ws
}

// Two queues serve what two processors ask at once, each queue exactly what its own processor
// asked. It is little: the machine with two processors is an emulated one.
func TestDeviceQueues(t *testing.T) {
	cpus := twoProcessors(t)
	const size = 3 << 20
	targets := []struct {
		name string
		open func(t *testing.T) (target.Target, func(p []byte) error) // the second reads the target itself
	}{
		{"null", func(*testing.T) (target.Target, func([]byte) error) { return null.New(size, 512), nil }},
		{"loop", func(t *testing.T) (target.Target, func([]byte) error) {
			path := loopFile(t, size)
			return openLoop(t, path, loop.Options{}), func(p []byte) error {
				b, err := os.ReadFile(path)
				copy(p, b)
				return err
			}
		}},
		{"volume", func(t *testing.T) (target.Target, func([]byte) error) {
			v := openVolume(t, size, 512)
			return volume.New(v), func(p []byte) error {
				_, err := v.ReadAt(p, 0)
				return err
			}
		}},
	}
	eachMode(t, func(t *testing.T, o Options) {
		o.Queues = 2
		for _, tt := range targets {
			t.Run(tt.name, func(t *testing.T) {
				target, content := tt.open(t)
				testQueues(t, startDevice(t, target, o), cpus, content)
			})
		}
	})
}

func testQueues(t *testing.T, d *Device, cpus [2]int, content func([]byte) error) {
	if d.Queues() != 2 {
		t.Fatalf("asked for 2 queues, got %d", d.Queues())
	}
	if info, err := Info(t.Context(), d.ID()); err != nil || info.Queues != 2 {
		t.Errorf("info %+v, %v: want 2 queues", info, err)
	}
	before := d.server.QueueStats()
	f := openDisk(t, d.Path(), os.O_RDWR)
	ws := pinnedWorkers(t, f, d.size.Load(), cpus, content != nil)
	var wg sync.WaitGroup
	for _, w := range ws {
		wg.Go(func() {
			if err := w.run(func(i int) bool { return i < 15 }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.Close()
	after := d.server.QueueStats()
	var read, written [2]uint64
	for _, w := range ws {
		q := queueOf(t, d, w.cpu)
		read[q] += w.read
		written[q] += w.written
	}
	for q := range after {
		a, b := after[q], before[q]
		t.Logf("queue %d: %d reads and %d writes", q, a.Reads-b.Reads, a.Writes-b.Writes)
		if a.ReadBytes-b.ReadBytes != read[q] || a.WriteBytes-b.WriteBytes != written[q] || written[q] == 0 {
			t.Errorf("queue %d served %d bytes of reads and %d of writes, its processor asked for %d and %d", q,
				a.ReadBytes-b.ReadBytes, a.WriteBytes-b.WriteBytes, read[q], written[q])
		}
		if a.Errors != 0 {
			t.Errorf("queue %d: %+v", q, a)
		}
	}
	if content == nil {
		return
	}
	got := make([]byte, d.size.Load())
	if err := content(got); err != nil {
		t.Fatal(err)
	}
	for _, w := range ws {
		if !bytes.Equal(got[w.base:w.base+int64(len(w.model))], w.model) {
			t.Errorf("processor %d: the target differs from what was written at %d", w.cpu, w.base)
		}
	}
}

// The server of two queues is killed again and again while two processors write; its successor, at
// last this process, serves what each queue had under way.
func TestDeviceQueuesKill(t *testing.T) {
	cpus := twoProcessors(t)
	t.Setenv(childQueuesEnv, "2")
	for _, m := range []CopyMode{CopyZero, CopyUser, CopyPlain} {
		t.Run(string(m), func(t *testing.T) {
			const size, kills = 3 << 20, 3
			path := loopFile(t, size)
			child, id := startChild(t, path, m, -1)
			f := openDisk(t, blockPath(id), os.O_RDWR)
			ws := pinnedWorkers(t, f, size, cpus, true)
			var stop atomic.Bool
			var wg sync.WaitGroup
			for _, w := range ws {
				wg.Go(func() {
					if err := w.run(func(int) bool { return !stop.Load() }); err != nil {
						t.Error(err)
					}
				})
			}
			for range kills {
				waitRounds(t, ws)
				killChild(t, child)
				child, _ = startChild(t, path, m, id)
			}
			waitRounds(t, ws)
			killChild(t, child)
			d, err := Recover(t.Context(), id, openLoop(t, path, loop.Options{}), Options{CopyMode: m})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { stopDevice(t, d) })
			waitRounds(t, ws)
			stop.Store(true)
			wg.Wait()
			f.Close()
			if d.Queues() != 2 {
				t.Errorf("recovered with %d queues", d.Queues())
			}
			for i, s := range d.server.QueueStats() {
				if s.Writes == 0 || s.Errors != 0 {
					t.Errorf("queue %d after the recovery: %+v", i, s)
				}
			}
		})
	}
}

// waitRounds returns when every worker has got on.
func waitRounds(t *testing.T, ws []*pinned) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, w := range ws {
		for n := w.rounds.Load(); w.rounds.Load() < n+3; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("processor %d at %d does not get on", w.cpu, w.base)
			}
		}
	}
}
