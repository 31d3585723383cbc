package stripe_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/stripe"
	"varve/blockdev/target/targettest"
	"varve/uring"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

const legSize = stripe.DataOffset + 2<<20

// newLegs makes sparse files.
func newLegs(t *testing.T, dir string, n int) []string {
	t.Helper()
	paths := make([]string, n)
	for i := range paths {
		paths[i] = filepath.Join(dir, fmt.Sprintf("leg%d", i))
		if err := errors.Join(os.WriteFile(paths[i], nil, 0o600), os.Truncate(paths[i], legSize)); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

func open(t *testing.T, paths []string, o stripe.Options) *stripe.Stripe {
	t.Helper()
	s, err := stripe.Open(paths, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		legs int
		o    stripe.Options
	}{
		"three 4k": {3, stripe.Options{ChunkSize: 4096, BlockSize: 4096}}, // up to 64 pieces a request
		"buffered": {5, stripe.Options{ChunkSize: 8192, Buffered: true}},
	} {
		t.Run(name, func(t *testing.T) {
			targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
				c.o.Format = true
				return open(t, newLegs(t, t.TempDir(), c.legs), c.o)
			}})
		})
	}
}

// Where the file system has no fallocate, zeroes are written and discards are not offered.
func TestWithoutFallocate(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		if os.Getenv("VARVE_VM") != "" {
			t.Fatalf("mount ramfs: %v", err)
		}
		t.Skipf("missing feature: mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount ramfs: %v", err)
		}
	})
	s := open(t, newLegs(t, dir, 2), stripe.Options{Format: true})
	if lim := s.Limits(); lim.Discard || !lim.Zeroes || s.Direct() {
		t.Errorf("limits %+v, direct %v", lim, s.Direct())
	}
	d := queuetest.Start(t, queuetest.Options{NewPart: s.NewPart})
	targettest.Model(t, d, targettest.ModelOptions{Limits: s.Limits()})
}

// do serves one request of a stripe.
func do(t *testing.T, s *stripe.Stripe, io queuetest.IO) error {
	t.Helper()
	d := queuetest.Start(t, queuetest.Options{NewPart: s.NewPart})
	err := d.Do(&io)
	d.TakeBack()
	return errors.Join(err, d.Wait(t.Context()))
}

// A set is found again whatever the order of its legs, with what was written.
func TestAnyOrder(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 3)
	s := open(t, paths, stripe.Options{Format: true, ChunkSize: 4096})
	want := bytes.Repeat([]byte("striped over three"), 64<<10)[:256<<10]
	if err := errors.Join(do(t, s, queuetest.IO{Op: queue.OpWrite, Off: 512, Data: want}), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, order := range [][]int{{0, 1, 2}, {2, 0, 1}, {1, 0, 2}} {
		given := make([]string, 3)
		for i, leg := range order {
			given[i] = paths[leg]
		}
		s := open(t, given, stripe.Options{})
		if !slices.Equal(s.Paths(), paths) || s.ChunkSize() != 4096 || s.Limits().Size != 3*(2<<20) {
			t.Errorf("legs %v, chunks of %d bytes, %d bytes", s.Paths(), s.ChunkSize(), s.Limits().Size)
		}
		got := make([]byte, len(want))
		if err := do(t, s, queuetest.IO{Op: queue.OpRead, Off: 512, Data: got}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("order %v: other bytes, %v", order, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The copy of a superblock does when the first one is gone, or was torn.
func TestSecondSuperblock(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 2)
	if err := open(t, paths, stripe.Options{Format: true}).Close(); err != nil {
		t.Fatal(err)
	}
	overwrite(t, paths[0], 0, make([]byte, 4096))
	overwrite(t, paths[1], 100, []byte("torn"))
	open(t, paths, stripe.Options{})
}

func overwrite(t *testing.T, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func resize(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// What is no set, or not all of one, is refused, by the names of the files, and nothing is written to
// them.
func TestRefusals(t *testing.T) {
	formatted := func(t *testing.T) []string {
		paths := newLegs(t, t.TempDir(), 3)
		if err := open(t, paths, stripe.Options{Format: true}).Close(); err != nil {
			t.Fatal(err)
		}
		return paths
	}
	fresh := func(t *testing.T) []string { return newLegs(t, t.TempDir(), 3) }
	for name, c := range map[string]struct {
		legs func(t *testing.T) []string
		o    stripe.Options
		says string
	}{
		"one leg":         {func(t *testing.T) []string { return fresh(t)[:1] }, stripe.Options{}, "a stripe over 1 files"},
		"not formatted":   {fresh, stripe.Options{}, "no superblock of a stripe; format"},
		"twice":           {func(t *testing.T) []string { p := fresh(t); return []string{p[0], p[1], p[0]} }, stripe.Options{Format: true}, "the same file"},
		"a leg missing":   {func(t *testing.T) []string { p := formatted(t); return []string{p[2], p[0]} }, stripe.Options{}, "has 3 legs; missing: leg 1"},
		"of two sets":     {func(t *testing.T) []string { return append(formatted(t)[:2], formatted(t)[2]) }, stripe.Options{}, "is a leg of the stripe"},
		"formatted again": {formatted, stripe.Options{Format: true}, "already; to lose that"},
		"read-only":       {fresh, stripe.Options{Format: true, ReadOnly: true}, "read only"},
		"other chunks":    {formatted, stripe.Options{ChunkSize: 4096}, "which stay as they are"},
		"odd chunks":      {fresh, stripe.Options{Format: true, ChunkSize: 12 << 10}, "chunk size 12288"},
		"small chunks":    {fresh, stripe.Options{Format: true, ChunkSize: 2048}, "chunk size 2048"},
		"a copy": {func(t *testing.T) []string {
			p := formatted(t)
			b, err := os.ReadFile(p[1])
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, p[2], 0, b)
			return p
		}, stripe.Options{}, "one is a copy"},
		"shrunk":    {func(t *testing.T) []string { p := formatted(t); resize(t, p[1], legSize-512); return p }, stripe.Options{}, "leg 1, "},
		"unequal":   {func(t *testing.T) []string { p := fresh(t); resize(t, p[2], 2*legSize); return p }, stripe.Options{Format: true}, "legs have the same size"},
		"too small": {func(t *testing.T) []string { p := fresh(t); resize(t, p[0], 1<<20); return p }, stripe.Options{Format: true}, "a leg needs"},
		"odd":       {func(t *testing.T) []string { p := fresh(t); resize(t, p[0], legSize+1); return p }, stripe.Options{Format: true}, "no multiple of the block size"},
		"damaged": {func(t *testing.T) []string {
			p := formatted(t)
			overwrite(t, p[0], 33, []byte{9})
			overwrite(t, p[0], 4096+33, []byte{9})
			return p
		}, stripe.Options{}, "damaged superblock"},
	} {
		t.Run(name, func(t *testing.T) {
			paths := c.legs(t)
			var before [][]byte
			for _, p := range paths {
				b, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				before = append(before, b)
			}
			s, err := stripe.Open(paths, c.o)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
			for i, p := range paths {
				if b, err := os.ReadFile(p); err != nil || !bytes.Equal(b, before[i]) {
					t.Errorf("%s was changed, %v", p, err)
				}
			}
		})
	}
}

// A request that fails names the leg that has failed.
func TestFailingLeg(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 3)
	s := open(t, paths, stripe.Options{Format: true, ChunkSize: 4096})
	resize(t, paths[1], stripe.DataOffset) // reads beyond the end
	d := queuetest.Start(t, queuetest.Options{NewPart: s.NewPart})
	err := d.Do(&queuetest.IO{Op: queue.OpRead, Data: make([]byte, 64<<10)})
	if !errors.Is(err, uring.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "leg 1, "+paths[1]) {
		t.Errorf("%v, want the end of leg 1", err)
	}
	if err := d.Do(&queuetest.IO{Op: queue.OpRead, Off: 8192, Data: make([]byte, 8192)}); err != nil {
		t.Errorf("legs 2 and 0: %v", err)
	}
}
