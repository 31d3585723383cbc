package image

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"varve/blockdev/target/qcow2/format"
)

const sector = 512

var errCut = errors.New("power cut")

// disk is a file in memory that loses any of the sectors that were written since the last sync.
type disk struct {
	mu      sync.Mutex
	b       []byte
	durable []byte
	written map[int64][][]byte // by sector: what was written since the last sync
	left    int                // writes until the power is cut; negative: never
	cut     bool
	onWrite func(off int64) // with mu held, before the bytes are written
}

func newDisk(b []byte) *disk {
	return &disk{b: append([]byte(nil), b...), durable: append([]byte(nil), b...), written: make(map[int64][][]byte), left: -1}
}

func (d *disk) Path() string  { return "disk" }
func (d *disk) FD() int       { return -1 }
func (d *disk) OffAlign() int { return sector }
func (d *disk) Measure() (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.b)), nil
}
func (d *disk) Discard(off, n int64) error { return d.WriteAt(make([]byte, n), off) }

func (d *disk) Zero(off, n int64, _ bool) error { return d.WriteAt(make([]byte, n), off) }

func (d *disk) ReadAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return errCut
	}
	if n := copy(p, d.b[min(off, int64(len(d.b))):]); n < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (d *disk) WriteAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.onWrite != nil {
		d.onWrite(off)
	}
	for i := int64(0); i < int64(len(p)); i += sector { // a cut comes between any two sectors
		if d.cut = d.cut || d.left == 0; d.cut {
			return errCut
		}
		part := append([]byte(nil), p[i:min(i+sector, int64(len(p)))]...)
		if off%sector != 0 || len(part)%sector != 0 || off+i+sector > int64(len(d.b)) {
			panic("unaligned, or beyond the end")
		}
		copy(d.b[off+i:], part)
		d.written[(off+i)/sector] = append(d.written[(off+i)/sector], part)
	}
	d.left--
	return nil
}

func (d *disk) Truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut = d.cut || d.left == 0; d.cut {
		return errCut
	}
	d.left--
	for k := range d.written {
		if k*sector >= size {
			delete(d.written, k)
		}
	}
	if size > int64(len(d.b)) {
		d.b = append(d.b, make([]byte, size-int64(len(d.b)))...)
	}
	d.b = d.b[:size:size]
	d.durable = d.durable[:min(size, int64(len(d.durable)))] // what is cut off never comes back
	return nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut = d.cut || d.left == 0; d.cut {
		return errCut
	}
	d.left--
	if n := len(d.b) - len(d.durable); n > 0 {
		d.durable = append(d.durable, make([]byte, n)...)
	}
	d.durable = d.durable[:len(d.b)]
	for k := range d.written {
		copy(d.durable[k*sector:], d.b[k*sector:(k+1)*sector])
	}
	clear(d.written)
	return nil
}

// after is the disk after a cut, or after a kill, which loses nothing.
func (d *disk) after(rnd *rand.Rand, kill bool) *disk {
	if kill {
		return newDisk(d.b)
	}
	b := append([]byte(nil), d.durable...)
	for k, list := range d.written {
		i := rnd.IntN(len(list) + 1)
		if i == len(list) {
			continue
		}
		if end := (k + 1) * sector; end > int64(len(b)) {
			b = append(b, make([]byte, end-int64(len(b)))...)
		}
		copy(b[k*sector:], list[i])
	}
	return newDisk(b)
}

// geometry is what a test image looks like.
type geometry struct {
	version  uint32
	bits     uint32
	order    uint32
	extended bool
}

// create makes an empty image.
func create(g geometry, size int64) []byte {
	cluster := 1 << g.bits
	entry := int64(8)
	if g.extended {
		entry = 16
	}
	cover := int64(cluster) / entry * int64(cluster)
	l1 := (size-1)/cover + 1
	l1Clusters := (int(l1)*8-1)/cluster + 1
	b := make([]byte, (3+l1Clusters)*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], g.version)
	be.PutUint32(b[20:], g.bits)
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32(l1))
	be.PutUint64(b[40:], uint64(3*cluster))
	be.PutUint64(b[48:], uint64(cluster))
	be.PutUint32(b[56:], 1)
	order := uint(4)
	if g.version == 3 {
		order = uint(g.order)
		be.PutUint32(b[96:], g.order)
		be.PutUint32(b[100:], 104)
		if g.extended {
			be.PutUint64(b[72:], format.ExtendedL2)
		}
	}
	be.PutUint64(b[cluster:], uint64(2*cluster))
	h := format.Geometry{ClusterBits: uint(g.bits), RefcountBits: order}
	for i := range 3 + l1Clusters {
		h.PutRefcount(b[2*cluster:3*cluster], int64(i), 1)
	}
	return b
}

// qemuCheck has qemu-img, where there is one, check an image. leaks: it may have some.
func qemuCheck(t *testing.T, b []byte, leaks bool) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("qemu-img", "check", "-f", "qcow2", path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 && leaks {
		return
	}
	if err != nil {
		t.Fatalf("qemu-img check: %v: %s", err, out)
	}
}
