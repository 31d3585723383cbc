package zoned

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/zoned/zone"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

const (
	zoneSize  = 256 << 10
	testZones = 6
	block     = 4096
)

// geometry is that of the tests' disks.
var geometry = zone.Geometry{ZoneSize: zoneSize, Conventional: 1, MaxOpen: 2, MaxActive: 4}

func newFile(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, bytes.Repeat([]byte{0xe5}, 2<<20), 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// options are those of the tests' disks: running pointers are in a directory beside the disk.
func options(path string) Options {
	return Options{Geometry: geometry, Runtime: filepath.Join(filepath.Dir(path), "run"), Boot: "1f0e2d3c-4b5a-6978"}
}

func openDisk(t *testing.T, path string, o Options) *Disk {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// formatted makes a new disk of testZones zones.
func formatted(t *testing.T) (string, Options) {
	t.Helper()
	path := newFile(t, dataOffset(testZones)+testZones*zoneSize)
	o := options(path)
	o.Format = true
	if err := openDisk(t, path, o).Close(); err != nil {
		t.Fatal(err)
	}
	o.Format = false
	return path, o
}

// kill ends a disk as the death of its server does: nothing is flushed, nothing is removed.
func (d *Disk) kill(t *testing.T) {
	t.Helper()
	if err := errors.Join(d.file.run.unmap(), d.file.file.Close()); err != nil {
		t.Fatal(err)
	}
}

// pattern is n bytes that differ from other patterns.
func pattern(n int, seed uint64) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 3))
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	return p
}

// history is a disk and what it should hold.
type history struct {
	t       *testing.T
	path    string
	o       Options
	lending queuetest.Lending
	faults  queuetest.Faults
	rnd     *rand.Rand

	disk    *Disk
	dev     *queuetest.Device
	content []byte           // of all zones, zeroes where nothing was written
	pointer [testZones]int64 // from the zone's start
	full    [testZones]bool  // finished
	flushed [testZones]int64 // the pointer at the last flush
}

func (h *history) start() {
	h.t.Helper()
	h.disk = openDisk(h.t, h.path, h.o)
	h.dev = queuetest.Start(h.t, queuetest.Options{Lending: h.lending, NewPart: h.disk.NewPart, Faults: &h.faults})
}

// stop ends the device, and leaves the disk open.
func (h *history) stop() {
	h.t.Helper()
	h.dev.TakeBack()
	if err := h.dev.Wait(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// do has a request served; a request whose secondary has failed is tried again.
func (h *history) do(io queuetest.IO) error {
	for {
		if err := h.dev.Do(&io); !errors.Is(err, unix.EBADF) {
			return err
		}
	}
}

func (h *history) must(io queuetest.IO) {
	h.t.Helper()
	if err := h.do(io); err != nil {
		h.t.Fatalf("%v of %d bytes at %d: %v", io.Op, max(io.Len, len(io.Data)), io.Off, err)
	}
}

// write writes at the pointer, or appends.
func (h *history) write(z int) {
	h.t.Helper()
	start := int64(z) * zoneSize
	off, op := start+h.pointer[z], queue.OpWrite
	if z < geometry.Conventional {
		off = start + int64(h.rnd.IntN(zoneSize/block))*block
	}
	room := (start + zoneSize - off) / block
	if room == 0 || h.full[z] {
		if err := h.do(queuetest.IO{Op: queue.OpZoneAppend, Off: start, Data: make([]byte, block)}); !errors.Is(err, zone.ErrFull) {
			h.t.Fatalf("an append to the full zone %d: %v", z, err)
		}
		return
	}
	data := pattern(block*int(1+h.rnd.Int64N(min(room, 12))), h.rnd.Uint64())
	io := queuetest.IO{Op: op, Off: off, Data: data, FUA: h.rnd.IntN(6) == 0}
	if z >= geometry.Conventional && h.rnd.IntN(3) == 0 {
		io.Op, io.Off = queue.OpZoneAppend, start
	}
	for {
		err := h.dev.Do(&io)
		if err == nil {
			break
		}
		if errors.Is(err, zone.ErrTooManyActive) {
			return
		}
		if !errors.Is(err, unix.EBADF) {
			h.t.Fatalf("%v of %d bytes at %d: %v", io.Op, len(data), io.Off, err)
		}
	}
	if io.Op == queue.OpZoneAppend && io.Appended != off {
		h.t.Fatalf("an append to zone %d went to %d, want %d", z, io.Appended, off)
	}
	copy(h.content[off:], data)
	if z >= geometry.Conventional {
		h.pointer[z] += int64(len(data))
		if io.FUA {
			h.flushed = h.pointer
		}
	}
}

func (h *history) reset(zones ...int) {
	for _, z := range zones {
		if z >= geometry.Conventional {
			clear(h.content[z*zoneSize : (z+1)*zoneSize])
			h.pointer[z], h.flushed[z], h.full[z] = 0, 0, false
		}
	}
}

// check compares the report, and all bytes.
func (h *history) check() {
	h.t.Helper()
	report := make([]byte, (testZones+1)*zone.DescriptorSize)
	h.must(queuetest.IO{Op: queue.OpZoneReport, Data: report})
	for z := range testZones {
		d := report[z*zone.DescriptorSize:]
		want := uint64(int64(z)*zoneSize+h.pointer[z]) / 512
		if z < geometry.Conventional || h.full[z] {
			want = uint64(z+1) * zoneSize / 512
		}
		if got := binary.NativeEndian.Uint64(d[16:]); got != want {
			h.t.Fatalf("the write pointer of zone %d, %v, is at %d, want %d", z, zone.Condition(d[25]), got, want)
		}
	}
	got := make([]byte, len(h.content))
	for off := 0; off < len(got); off += 192 << 10 { // across zones
		h.must(queuetest.IO{Op: queue.OpRead, Off: int64(off), Data: got[off:min(off+192<<10, len(got))]})
	}
	if i := differs(got, h.content); i >= 0 {
		h.t.Fatalf("byte %d of zone %d, whose pointer is at %d, is %#x, want %#x", i%zoneSize, i/zoneSize, h.pointer[i/zoneSize], got[i], h.content[i])
	}
}

func differs(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// powerCut makes a disk of what is in the file now, without what was only running: a disk keeps what
// is written to it, or some of it. Its pointers must be where the last flush left them, or beyond,
// and what is below them must be what was written.
func (h *history) powerCut() {
	h.t.Helper()
	data, err := os.ReadFile(h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.t.TempDir(), "cut")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
	d := openDisk(h.t, path, options(path))
	defer d.Close()
	words := make([]zone.Word, testZones)
	d.zones.Snapshot(words)
	for z, w := range words {
		if w.Written() < h.flushed[z] || w.Written() > h.pointer[z] {
			h.t.Fatalf("after a power cut %d bytes of zone %d are written; %d were flushed, and %d written", w.Written(), z, h.flushed[z], h.pointer[z])
		}
		at := int64(z) * zoneSize
		if !bytes.Equal(data[d.file.data+at:][:w.Written()], h.content[at:at+w.Written()]) {
			h.t.Fatalf("after a power cut zone %d holds something else below its pointer", z)
		}
	}
}

func (h *history) step() {
	h.t.Helper()
	z := h.rnd.IntN(testZones)
	start := int64(z) * zoneSize
	switch op := h.rnd.IntN(40); {
	case op < 22:
		h.write(z)
	case op < 25:
		h.must(queuetest.IO{Op: queue.OpFlush})
		h.flushed = h.pointer
	case op < 27:
		if z >= geometry.Conventional {
			h.must(queuetest.IO{Op: queue.OpZoneReset, Off: start})
			h.reset(z)
		}
	case op == 27:
		if z >= geometry.Conventional {
			h.must(queuetest.IO{Op: queue.OpZoneFinish, Off: start})
			h.full[z] = true
		}
	case op == 28:
		h.must(queuetest.IO{Op: queue.OpZoneResetAll})
		h.reset(1, 2, 3, 4, 5)
	case op < 31:
		if z >= geometry.Conventional {
			h.must(queuetest.IO{Op: queue.OpZoneClose, Off: start})
		}
	case op < 34:
		h.powerCut()
	case op == 34:
		h.stop()
		if err := h.disk.Close(); err != nil {
			h.t.Fatal(err)
		}
		h.flushed = h.pointer
		h.start()
	case op < 37:
		h.stop()
		h.disk.kill(h.t)
		h.start()
		h.flushed = h.pointer // what a dead server has left is made durable
		h.powerCut()
		h.check()
	default:
		h.check()
	}
}

// A history of everything that a host may ask, with failing transfers, servers that die and power
// cuts, on every kind of lent buffer.
func TestHistory(t *testing.T) {
	for _, lending := range queuetest.Lendings {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s %d", lending, seed), func(t *testing.T) {
				path, o := formatted(t)
				h := &history{t: t, path: path, o: o, lending: lending, rnd: rand.New(rand.NewPCG(seed, 5)), content: make([]byte, testZones*zoneSize)}
				h.faults.Set(0.2, 0.02)
				h.start()
				h.must(queuetest.IO{Op: queue.OpWrite, Data: make([]byte, zoneSize)}) // a conventional zone holds anything
				for range 120 {
					h.step()
				}
				h.check()
				h.stop()
				if err := h.disk.Close(); err != nil {
					t.Fatal(err)
				}
				if left, _ := os.ReadDir(o.Runtime); len(left) != 0 {
					t.Errorf("%v is left over", left)
				}
			})
		}
	}
}

// What the kernel sends again after the death of a server is done once: the write that moved the
// pointer, and no other.
func TestReissuedWrite(t *testing.T) {
	path, o := formatted(t)
	d := openDisk(t, path, o)
	dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
	first, second := pattern(2*block, 1), pattern(block, 2)
	w := queuetest.IO{Op: queue.OpWrite, Off: zoneSize, Data: first}
	again := queuetest.IO{Op: queue.OpWrite, Off: zoneSize + 2*block, Data: second}
	if err := errors.Join(dev.Do(&w), dev.Do(&again)); err != nil {
		t.Fatal(err)
	}
	if err := dev.Do(&again); !errors.Is(err, zone.ErrPointer) {
		t.Errorf("the same write twice: %v", err)
	}
	dev.TakeBack()
	if err := dev.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.kill(t)

	d = openDisk(t, path, o)
	t.Cleanup(func() { d.Close() })
	dev = queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
	if err := dev.Do(&w); !errors.Is(err, zone.ErrPointer) {
		t.Errorf("an earlier write again: %v", err)
	}
	if err := dev.Do(&again); err != nil {
		t.Errorf("the last write again: %v", err)
	}
	if err := dev.Do(&again); !errors.Is(err, zone.ErrPointer) {
		t.Errorf("and once more: %v", err)
	}
	got := make([]byte, 4*block)
	if err := dev.Do(&queuetest.IO{Op: queue.OpRead, Off: zoneSize, Data: got}); err != nil {
		t.Fatal(err)
	}
	if want := append(append(append([]byte(nil), first...), second...), make([]byte, block)...); !bytes.Equal(got, want) {
		t.Error("the zone holds something else")
	}
}

// Running pointers count for the opening, the file and the boot that they are of, and no other.
func TestRunningPointersOfAnother(t *testing.T) {
	setUp := func(t *testing.T) (string, Options) {
		path, o := formatted(t)
		d := openDisk(t, path, o)
		if err := d.zones.Write(zoneSize, block); err != nil {
			t.Fatal(err)
		}
		d.zones.Done(zoneSize, block)
		d.kill(t)
		return path, o
	}
	written := func(t *testing.T, path string, o Options) int64 {
		d := openDisk(t, path, o)
		defer d.Close()
		words := make([]zone.Word, testZones)
		d.zones.Snapshot(words)
		return words[1].Written()
	}
	t.Run("its own", func(t *testing.T) {
		path, o := setUp(t)
		if n := written(t, path, o); n != block {
			t.Errorf("%d bytes are written, want %d", n, block)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		path, o := setUp(t)
		o.ReadOnly = true
		if n := written(t, path, o); n != block {
			t.Errorf("%d bytes are written, want %d", n, block)
		}
		o.ReadOnly = false
		if n := written(t, path, o); n != block {
			t.Errorf("then %d bytes are written, want %d", n, block)
		}
	})
	t.Run("another boot", func(t *testing.T) {
		path, o := setUp(t)
		o.Boot = "another"
		if n := written(t, path, o); n != 0 {
			t.Errorf("%d bytes are written", n)
		}
	})
	t.Run("a copy in its place", func(t *testing.T) {
		path, o := setUp(t)
		data, err := os.ReadFile(path)
		if err = errors.Join(err, os.WriteFile(path+".copy", data, 0o600), os.Rename(path+".copy", path)); err != nil {
			t.Fatal(err)
		}
		if n := written(t, path, o); n != 0 {
			t.Errorf("%d bytes are written", n)
		}
	})
	t.Run("an earlier opening", func(t *testing.T) {
		path, o := setUp(t)
		names, err := filepath.Glob(filepath.Join(o.Runtime, "*.zones"))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		left, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		if n := written(t, path, o); n != block { // and is closed
			t.Fatalf("%d bytes are written", n)
		}
		o2 := o
		o2.Runtime += "2"
		d := openDisk(t, path, o2)
		if _, err := d.zones.BeginReset(zoneSize); err != nil {
			t.Fatal(err)
		}
		d.zones.EndReset(zoneSize, false)
		if err := errors.Join(d.Close(), os.WriteFile(names[0], left, 0o600)); err != nil {
			t.Fatal(err)
		}
		if n := written(t, path, o); n != 0 {
			t.Errorf("%d bytes are written", n)
		}
	})
}

// A sync that has failed is final.
func TestFailedFlush(t *testing.T) {
	path, o := formatted(t)
	d := openDisk(t, path, o)
	good := d.file.file
	bad, err := backing.Open(newFile(t, 1<<20), backing.Options{})
	if err == nil {
		err = bad.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := d.zones.Write(zoneSize, block); err != nil {
		t.Fatal(err)
	}
	d.zones.Done(zoneSize, block)
	d.file.file = bad
	if err := d.file.flush(); err == nil {
		t.Fatal("a flush of a closed file succeeds")
	}
	d.file.file = good
	if err := d.file.flush(); err == nil {
		t.Error("a flush after one that has failed succeeds")
	}
	h := handler{disk: &d.disk}
	if err := h.resetZones([]int64{zoneSize}); err == nil {
		t.Error("a reset after a failed flush succeeds")
	}
	words := make([]zone.Word, testZones)
	d.zones.Snapshot(words)
	if words[1].Written() != block {
		t.Errorf("%d bytes are written after a reset that has failed", words[1].Written())
	}
	if err := d.Close(); err == nil {
		t.Error("closing the disk succeeds")
	}
}

func TestRefusedFiles(t *testing.T) {
	for name, c := range map[string]struct {
		size   int64
		change func(t *testing.T, path string, o *Options)
		want   string
	}{
		"too small": {zoneSize, func(_ *testing.T, _ string, o *Options) { o.Format = true }, "one zone of 262144"},
		"empty":     {0, func(_ *testing.T, _ string, o *Options) { o.Format = true }, "is empty"},
		"odd zones": {8 << 20, func(_ *testing.T, _ string, o *Options) { o.Format = true; o.Geometry.ZoneSize = 3 << 16 }, "zone size 196608"},
		"not zoned": {8 << 20, func(*testing.T, string, *Options) {}, "no superblock of a zoned disk; format"},
		"too many open": {8 << 20, func(_ *testing.T, _ string, o *Options) {
			o.Format = true
			o.Geometry.MaxOpen = 100
			o.Geometry.MaxActive = 100
		}, "at most 100 open zones"},
	} {
		t.Run(name, func(t *testing.T) {
			path := newFile(t, c.size)
			o := options(path)
			c.change(t, path, &o)
			_, err := Open(path, o)
			if !errors.Is(err, queue.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
		})
	}
	path, o := formatted(t)
	o.Format = true
	if _, err := Open(path, o); !errors.Is(err, queue.ErrInvalid) || !strings.Contains(err.Error(), "is a zoned disk already") {
		t.Errorf("formatted again: %v", err)
	}
	o.Format = false
	if err := os.Truncate(path, dataOffset(testZones)+testZones*zoneSize-block); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, o); !errors.Is(err, queue.ErrInvalid) || !strings.Contains(err.Error(), "has shrunk") {
		t.Errorf("a file that has shrunk: %v", err)
	}
	if _, err := NewNull(zone.Geometry{Size: 3, ZoneSize: zoneSize}, 512); !errors.Is(err, zone.ErrGeometry) {
		t.Errorf("a null disk of 3 bytes: %v", err)
	}
}

// A null disk keeps the rules, and moves nothing.
func TestNull(t *testing.T) {
	n, err := NewNull(zone.Geometry{Size: testZones * zoneSize, ZoneSize: zoneSize, MaxOpen: 1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev := queuetest.Start(t, queuetest.Options{NewPart: n.NewPart})
	io := queuetest.IO{Op: queue.OpZoneAppend, Off: zoneSize, Data: make([]byte, block)}
	if err := errors.Join(dev.Do(&io), dev.Do(&io)); err != nil || io.Appended != zoneSize+block {
		t.Errorf("the second append went to %d, %v", io.Appended, err)
	}
	if err := dev.Do(&queuetest.IO{Op: queue.OpWrite, Off: zoneSize, Data: io.Data}); !errors.Is(err, zone.ErrPointer) {
		t.Errorf("a write at the start: %v", err)
	}
	status := (*queue.StatusError)(nil)
	err = errors.Join(dev.Do(&queuetest.IO{Op: queue.OpZoneOpen}))
	if err == nil {
		err = dev.Do(&queuetest.IO{Op: queue.OpZoneOpen, Off: 2 * zoneSize})
	}
	if !errors.As(err, &status) || status.Errno != unix.ETOOMANYREFS {
		t.Errorf("a second open zone: %v, want the errno ETOOMANYREFS", err)
	}
	for _, op := range []queue.Op{queue.OpZoneReset, queue.OpZoneResetAll, queue.OpFlush} {
		if err := dev.Do(&queuetest.IO{Op: op}); err != nil {
			t.Errorf("%v: %v", op, err)
		}
	}
	for _, op := range []queue.Op{queue.OpDiscard, queue.OpWriteZeroes, 200} {
		if err := dev.Do(&queuetest.IO{Op: op, Len: block}); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%v: %v", op, err)
		}
	}
	if err := dev.Do(&queuetest.IO{Op: queue.OpWrite, Off: zoneSize, Data: io.Data}); err != nil {
		t.Errorf("a write to a zone that was reset: %v", err)
	}
}
