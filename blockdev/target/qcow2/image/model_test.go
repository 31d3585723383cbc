package image

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"varve/blockdev/target/backing"
)

const guest = 1<<20 + 3*4096

// base is a backing file in memory, shorter than the disk.
func base() (*Raw, []byte) {
	b := bytes.Repeat([]byte("under"), 700<<10/5)
	b = b[:len(b)&^4095]
	r, _ := NewRaw(newDisk(b))
	return r, b
}

// write does what a handler does.
func write(m *Image, f File, p []byte, off int64) error {
	e := m.Enter()
	defer m.Leave(e)
	for {
		c, extents, busy, err := m.Prepare(off, int64(len(p)))
		if err != nil {
			return err
		}
		if busy != nil {
			<-busy
			continue
		}
		for _, x := range extents {
			if err == nil {
				err = f.WriteAt(p[:x.Len], x.Off)
			}
			p = p[x.Len:]
		}
		switch {
		case c == nil:
			return err
		case err != nil:
			c.Abort()
			return err
		}
		return c.Commit()
	}
}

// history is a random one, and what each sector may hold.
type history struct {
	t       *testing.T
	d       *disk
	m       *Image
	backing Layer
	rnd     *rand.Rand
	now     []byte             // what was acknowledged
	maybe   map[int64][][]byte // by sector: what a power cut may leave
	pending map[int64][][]byte // the same of the request under way
}

func (h *history) open() {
	h.t.Helper()
	m, err := Open(h.d, Options{Backing: h.backing})
	if err != nil {
		h.t.Fatal(err)
	}
	h.m = m
}

// begin says that n bytes at off become p, perhaps.
func (h *history) begin(p []byte, off int64) {
	h.pending = make(map[int64][][]byte)
	for i := 0; i < len(p); i += sector {
		k := (off + int64(i)) / sector
		if h.maybe[k] == nil {
			h.maybe[k] = [][]byte{bytes.Clone(h.now[k*sector : (k+1)*sector])}
		}
		h.maybe[k] = append(h.maybe[k], p[i:i+sector])
		h.pending[k] = [][]byte{bytes.Clone(h.now[k*sector : (k+1)*sector]), p[i : i+sector]}
	}
}

func (h *history) step() error {
	n := sector * (1 + h.rnd.IntN([]int{1, 8, 128}[h.rnd.IntN(3)]))
	off := int64(h.rnd.IntN((guest-n)/sector+1)) * sector
	p := make([]byte, n)
	h.pending = nil
	var err error
	switch op := h.rnd.IntN(10); {
	case op < 5:
		for i := range p {
			p[i] = byte(h.rnd.Uint32())
		}
		h.begin(p, off)
		err = write(h.m, h.d, p, off)
	case op < 7:
		h.begin(p, off)
		err = h.m.Zero(h.t.Context(), off, int64(n), op == 5)
	case op < 8:
		if err = h.m.Sync(); err == nil {
			h.maybe = make(map[int64][][]byte)
		}
		return err
	default:
		p = backing.Memory(n)
		if err = Read(h.m, p, off); err == nil && !bytes.Equal(p, h.now[off:off+int64(n)]) {
			h.t.Fatalf("%d bytes at %d are others", n, off)
		}
		return err
	}
	if err == nil {
		copy(h.now[off:], p)
		h.pending = nil
	}
	return err
}

// crash leaves what a cut or a kill may leave, and opens the image again.
func (h *history) crash(kill bool) {
	h.t.Helper()
	h.d = h.d.after(h.rnd, kill)
	qemuCheck(h.t, h.d.b, true)
	h.open()
	may := h.maybe
	if kill {
		may = h.pending
	}
	got := backing.Memory(guest)
	if err := Read(h.m, got, 0); err != nil {
		h.t.Fatal(err)
	}
	for k := range int64(guest / sector) {
		s := got[k*sector : (k+1)*sector]
		ok := bytes.Equal(s, h.now[k*sector:(k+1)*sector])
		if list := may[k]; list != nil {
			ok = false
			for _, p := range list {
				ok = ok || bytes.Equal(s, p)
			}
		}
		if !ok {
			h.t.Fatalf("sector %d holds what was never there (kill: %v)", k, kill)
		}
	}
	copy(h.now, got)
	h.pending = nil
	if !kill {
		h.maybe = make(map[int64][][]byte)
		h.d = newDisk(h.d.b) // a second crash begins here
		h.open()
	}
}

func (h *history) run(crashes int) {
	h.maybe = make(map[int64][][]byte)
	h.open()
	for range crashes {
		h.d.left = 1 + h.rnd.IntN(200)
		var err error
		for err == nil {
			err = h.step()
		}
		if !errors.Is(err, errCut) {
			h.t.Fatal(err)
		}
		h.crash(h.rnd.IntN(3) == 0)
	}
	for range 100 {
		if err := h.step(); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := h.m.Close(); err != nil {
		h.t.Fatal(err)
	}
	qemuCheck(h.t, h.d.b, false)
	h.open()
	got := backing.Memory(guest)
	if err := Read(h.m, got, 0); err != nil || !bytes.Equal(got, h.now) {
		h.t.Fatalf("another disk after closing, %v", err)
	}
}

// Random histories with crashes between any two sectors that are written, over images of all kinds.
func TestHistories(t *testing.T) {
	for _, g := range []geometry{
		{version: 2, bits: 9},
		{version: 2, bits: 16},
		{version: 3, bits: 9, order: 6},
		{version: 3, bits: 12, order: 0},
		{version: 3, bits: 16, order: 4},
		{version: 3, bits: 14, order: 3, extended: true},
		{version: 3, bits: 16, order: 5, extended: true},
		{version: 3, bits: 21, order: 4},
	} {
		for _, over := range []bool{false, true} {
			crashes := 6
			if g.bits > 16 {
				crashes = 2
			}
			t.Run(fmt.Sprintf("%+v over %v", g, over), func(t *testing.T) {
				t.Parallel()
				h := &history{t: t, d: newDisk(create(g, guest)), rnd: rand.New(rand.NewPCG(1, uint64(g.bits))), now: make([]byte, guest)}
				if over {
					r, b := base()
					h.backing = r
					copy(h.now, b)
				}
				h.run(crashes)
			})
		}
	}
}

// The same over images that share clusters with a snapshot, and have compressed ones, from qemu-img.
func TestHistoriesOfSnapshots(t *testing.T) {
	for _, opts := range []string{"compat=0.10", "compat=1.1,cluster_size=4k", "extended_l2=on,cluster_size=16k", "lazy_refcounts=on,compression_type=zstd"} {
		t.Run(opts, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
			now := make([]byte, guest)
			copy(now[100<<10:], strings.Repeat("before the snapshot ", 20<<10))
			if err := os.WriteFile(raw, now, 0o600); err != nil {
				t.Fatal(err)
			}
			qemuImg(t, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", opts, raw, path)
			qemuImg(t, "snapshot", "-c", "one", path)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, make([]byte, -len(b)&(sector-1))...)
			h := &history{t: t, d: newDisk(b), rnd: rand.New(rand.NewPCG(2, 3)), now: now}
			h.run(10)
			if err := os.WriteFile(path, h.d.b, 0o600); err != nil {
				t.Fatal(err)
			}
			qemuImg(t, "convert", "-l", "one", "-f", "qcow2", "-O", "raw", path, raw+"2")
			was, err := os.ReadFile(raw)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(raw + "2"); err != nil || !bytes.Equal(got, was) {
				t.Errorf("the snapshot changed, %v", err)
			}
		})
	}
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("missing feature: qemu-img")
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v: %s", args, err, out)
	}
}

// Many write and discard clusters that they share, each its own sectors of them.
func TestConcurrent(t *testing.T) {
	for _, g := range []geometry{{version: 3, bits: 16, order: 4}, {version: 3, bits: 14, order: 4, extended: true}} {
		d := newDisk(create(g, guest))
		r, b := base()
		m, err := Open(d, Options{Backing: r})
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, guest)
		copy(want, b)
		const clients = 6
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() {
				rnd := rand.New(rand.NewPCG(5, uint64(i)))
				for range 150 {
					k := int64(rnd.IntN(guest/sector/clients)*clients + i)
					p := bytes.Repeat([]byte{byte(rnd.IntN(256))}, sector)
					var err error
					switch rnd.IntN(8) {
					case 0:
						clear(p)
						err = m.Zero(t.Context(), k*sector, sector, false)
					case 1:
						err = m.Sync()
						copy(p, want[k*sector:])
					default:
						err = write(m, d, p, k*sector)
					}
					if err != nil {
						t.Error(err)
						return
					}
					copy(want[k*sector:], p)
					got := backing.Memory(sector)
					if err := Read(m, got, k*sector); err != nil || !bytes.Equal(got, p) {
						t.Errorf("sector %d holds others, %v", k, err)
						return
					}
				}
			})
		}
		all.Wait()
		got := backing.Memory(guest)
		if err := errors.Join(Read(m, got, 0), m.Close()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("another disk, %v", err)
		}
		qemuCheck(t, d.b, false)
	}
}
