package qcow2_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"varve/blockdev/target/backing"
	"varve/blockdev/target/qcow2"
	"varve/blockdev/target/qcow2/format"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

const diskSize = 3<<20 + 512

// content makes a raw disk in dir: bytes, a hole, and bytes that compress.
func content(t *testing.T, dir string) (path string, b []byte) {
	t.Helper()
	b = make([]byte, diskSize)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 1 << 20 {
		b[i] = byte(rnd.Uint32())
	}
	copy(b[2<<20:], strings.Repeat("compresses", 80<<10))
	path = filepath.Join(dir, "raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b
}

// readAll reads the whole disk.
func readAll(t *testing.T, d *queuetest.Device, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	for off := 0; off < size; off += 128 << 10 {
		if err := d.Do(&queuetest.IO{Op: queue.OpRead, Off: int64(off), Data: b[off:min(size, off+128<<10)]}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// Images with each option of qemu-img are read byte for byte, and after writes qemu-img finds the
// same disk and nothing to complain about.
func TestImagesOfQemu(t *testing.T) {
	for _, c := range []struct{ create, options string }{
		{"", "compat=0.10"},
		{"", "compat=0.10,cluster_size=512"},
		{"", "cluster_size=512,refcount_bits=1"},
		{"", "cluster_size=2M,refcount_bits=64"},
		{"", "cluster_size=4k,refcount_bits=2,lazy_refcounts=on"},
		{"", "refcount_bits=4,preallocation=metadata"},
		{"", "refcount_bits=8,preallocation=falloc"},
		{"", "refcount_bits=32,preallocation=full"},
		{"", "extended_l2=on"},
		{"", "extended_l2=on,cluster_size=16k,preallocation=metadata"},
		{"-c", ""},
		{"-c", "compat=0.10,cluster_size=512"},
		{"-c", "compression_type=zstd"},
		{"-c", "compression_type=zstd,cluster_size=2M"},
		{"-c", "extended_l2=on,cluster_size=32k"},
		{"", "backing"},
		{"", "backing,compat=0.10"},
		{"", "backing,extended_l2=on"},
	} {
		t.Run(c.create+c.options, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw, want := content(t, dir)
			path := filepath.Join(dir, "image")
			if options, chain := strings.CutPrefix(c.options, "backing"); chain {
				qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", filepath.Join(dir, "middle"))
				qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 5 900k 300k", "-c", "write -z 2100k 100k", filepath.Join(dir, "middle"))
				qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "size=4M"+options, "-b", "middle", "-F", "qcow2", path)
				qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 6 1000k 20k", path)
				copy(want[900<<10:], bytes.Repeat([]byte{5}, 300<<10))
				clear(want[2100<<10 : 2200<<10])
				copy(want[1000<<10:], bytes.Repeat([]byte{6}, 20<<10))
				want = append(want, make([]byte, 4<<20-len(want))...)
			} else {
				args := []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2"}
				if c.create != "" {
					args = append(args, c.create)
				}
				if options != "" {
					args = append(args, "-o", options)
				}
				qemu(t, append(args, raw, path)...)
				if !strings.Contains(options, "refcount_bits=1") || strings.Contains(options, "refcount_bits=16") {
					qemu(t, "qemu-img", "snapshot", "-c", "one", path)
				}
			}
			writeAndCompare(t, path, want)
		})
	}
}

func writeAndCompare(t *testing.T, path string, want []byte) {
	t.Helper()
	for _, readOnly := range []bool{true, false} {
		d := open(t, path, qcow2.Options{ReadOnly: readOnly})
		dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
		if got := readAll(t, dev, len(want)); !bytes.Equal(got, want) {
			t.Errorf("read-only %v: another disk", readOnly)
		}
		if !readOnly {
			scribble(t, dev, want)
		}
		dev.TakeBack()
		if err := errors.Join(dev.Wait(t.Context()), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	after := filepath.Join(t.TempDir(), "after")
	if err := os.WriteFile(after, want, 0o600); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-img", "check", "-f", "qcow2", path)
	qemu(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, after)
}

// scribble writes, discards and zeroes at random.
func scribble(t *testing.T, d *queuetest.Device, want []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		n := 512 * (1 + rnd.IntN(200))
		off := 512 * rnd.IntN((len(want)-n)/512)
		io := queuetest.IO{Op: queue.OpWrite, Off: int64(off), FUA: rnd.IntN(8) == 0}
		switch rnd.IntN(4) {
		case 0:
			io.Op, io.Len = queue.OpDiscard, n
			clear(want[off : off+n])
		case 1:
			io.Op, io.Len, io.NoUnmap = queue.OpWriteZeroes, n, rnd.IntN(2) == 0
			clear(want[off : off+n])
		default:
			io.Data = bytes.Repeat([]byte{byte(rnd.IntN(256))}, n)
			copy(want[off:], io.Data)
		}
		if err := d.Do(&io); err != nil {
			t.Fatalf("%v: %v", io.Op, err)
		}
	}
	if got := readAll(t, d, len(want)); !bytes.Equal(got, want) {
		t.Error("another disk after writes")
	}
}

// patch changes bytes of a file.
func patch(t *testing.T, path string, off int64, b ...byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(b, off)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Hostile and unknown images are refused, and the error says why.
func TestRefusals(t *testing.T) {
	const cluster = 64 << 10 // of an image with one written cluster: refcounts 1, 2; L1 3; L2 4; data 5
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		says  string
		want  error
	}{
		"magic":       {func(t *testing.T, p string) { patch(t, p, 0, 0) }, "no qcow2 image", format.ErrNoImage},
		"version":     {func(t *testing.T, p string) { patch(t, p, 7, 4) }, "version 4", format.ErrUnsupported},
		"encryption":  {func(t *testing.T, p string) { patch(t, p, 35, 1) }, "encrypted (AES)", format.ErrUnsupported},
		"unknown":     {func(t *testing.T, p string) { patch(t, p, 72, 0x80) }, "unknown incompatible features 63", format.ErrUnsupported},
		"data file":   {func(t *testing.T, p string) { patch(t, p, 79, 4) }, "external file", format.ErrUnsupported},
		"corrupt":     {func(t *testing.T, p string) { patch(t, p, 79, 2) }, "marked as corrupt", format.ErrDamaged},
		"huge":        {func(t *testing.T, p string) { patch(t, p, 24, 0x10) }, "L1 table", format.ErrDamaged},
		"L1 outside":  {func(t *testing.T, p string) { patch(t, p, 40, 1) }, "beyond the file's end", format.ErrDamaged},
		"L2 outside":  {func(t *testing.T, p string) { patch(t, p, 3*cluster, 0x80, 1) }, "beyond the file's end", format.ErrDamaged},
		"data beyond": {func(t *testing.T, p string) { patch(t, p, 4*cluster, 0x80, 1) }, "the file ends", format.ErrDamaged},
		"data in L1":  {func(t *testing.T, p string) { patch(t, p, 4*cluster+5, 3) }, "overlaps the L1 table", format.ErrDamaged},
		"L2 in L1":    {func(t *testing.T, p string) { patch(t, p, 3*cluster+5, 3) }, "overlaps the", format.ErrDamaged},
		"refcount 0":  {func(t *testing.T, p string) { patch(t, p, 2*cluster+11, 0) }, "refcount is too small", format.ErrDamaged},
		"refcounts":   {func(t *testing.T, p string) { patch(t, p, cluster, 0, 0, 0, 0, 0, 0, 0, 0) }, "refcount is too small", format.ErrDamaged},
		"shared": {func(t *testing.T, p string) {
			patch(t, p, 4*cluster+8, 0x80, 0, 0, 0, 0, 5)
			patch(t, p, 2*cluster+11, 2)
		}, "marked as not shared", format.ErrDamaged},
		"itself": {func(t *testing.T, p string) {
			qemu(t, "qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "image", p)
		}, "is below itself", queue.ErrInvalid},
		"no format": {func(t *testing.T, p string) {
			qemu(t, "qemu-img", "rebase", "-u", "-F", "raw", "-b", "x", p)
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			patch(t, p, int64(bytes.Index(b, []byte("\xe2\x79\x2a\xca"))), 1)
		}, "does not say what format", queue.ErrInvalid},
		"protocol": {func(t *testing.T, p string) {
			qemu(t, "qemu-img", "rebase", "-u", "-F", "raw", "-b", "nbd:localhost:1", p)
		}, "only files and block devices", queue.ErrInvalid},
		"gone": {func(t *testing.T, p string) {
			qemu(t, "qemu-img", "rebase", "-u", "-F", "raw", "-b", "gone", p)
		}, "gone", os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "image")
			qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
			qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", path)
			c.spoil(t, path)
			d, err := qcow2.Open(path, qcow2.Options{})
			if err == nil {
				d.Close()
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

// Refcounts that are too small are repaired where the image says that they may be, and the mark goes.
func TestDirty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "1M")
	qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 128k", path)
	const cluster = 64 << 10
	patch(t, path, 79, 1)
	patch(t, path, cluster, 0, 0, 0, 0, 0, 0, 0, 0) // no refcount block at all
	d := open(t, path, qcow2.Options{})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-img", "check", "-f", "qcow2", path)
	if info := qemu(t, "qemu-img", "info", path); strings.Contains(info, "dirty") {
		t.Error(info)
	}
}

// Whoever has an image open keeps qemu from writing it; readers share a backing file.
func TestLocks(t *testing.T) {
	dir := t.TempDir()
	base, path, other := filepath.Join(dir, "base"), filepath.Join(dir, "image"), filepath.Join(dir, "other")
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", path)
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", other)
	d, e := open(t, path, qcow2.Options{}), open(t, other, qcow2.Options{})
	defer e.Close()
	for _, file := range []string{path, base} {
		if out, err := qemuFails("qemu-io", "-f", "qcow2", "-c", "write 0 4k", file); err == nil || !strings.Contains(out, "lock") {
			t.Errorf("qemu writes %s: %v, %s", file, err, out)
		}
	}
	if _, err := qcow2.Open(path, qcow2.Options{ReadOnly: true}); !errors.Is(err, backing.ErrUsed) {
		t.Errorf("a reader beside a writer: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-io", "-f", "qcow2", "-c", "write 0 4k", path)
}

// Qemu keeps an image from being served.
func TestLockOfQemu(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	release := holdByQemu(t, path)
	if _, err := qcow2.Open(path, qcow2.Options{}); !errors.Is(err, backing.ErrUsed) || !strings.Contains(err.Error(), "qemu") {
		t.Errorf("%v, want ErrUsed that names qemu", err)
	}
	release()
	if err := open(t, path, qcow2.Options{}).Close(); err != nil {
		t.Error(err)
	}
}
