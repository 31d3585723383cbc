package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/blockdev/target/mirror"
	"varve/blockdev/target/targettest"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

const (
	diskSize = 2 << 20
	legSize  = mirror.DataOffset + diskSize
)

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

func open(t *testing.T, paths []string, o mirror.Options) *mirror.Mirror {
	t.Helper()
	m, err := mirror.Open(paths, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// shm makes a directory in memory.
func shm(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "varve-mirror-") //nolint:usetesting // in memory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func closeMirror(t *testing.T, m *mirror.Mirror) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// await waits until the legs are in the given states.
func await(t *testing.T, m *mirror.Mirror, states ...string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		var have []string
		for _, l := range m.Status() {
			have = append(have, l.State)
		}
		if fmt.Sprint(have) == fmt.Sprint(states) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the legs are %v, want %v", have, states)
		}
	}
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		legs int
		o    mirror.Options
	}{
		"two":      {2, mirror.Options{}},
		"buffered": {3, mirror.Options{BlockSize: 4096, RegionSize: 64 << 10, Buffered: true}},
	} {
		t.Run(name, func(t *testing.T) {
			targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
				c.o.Format = true
				dir := t.TempDir()
				if c.o.Buffered {
					dir = shm(t)
				}
				paths := newLegs(t, dir, c.legs)
				m := open(t, paths, c.o)
				t.Cleanup(func() {
					all := !strings.Contains(t.Name(), "Faults")
					if all {
						want := []string{"in-sync", "in-sync", "in-sync"}[:c.legs]
						await(t, m, want...)
					}
					closeMirror(t, m)
					if all {
						compare(t, paths)
					}
				})
				return m
			}})
		})
	}
}

// compare compares what legs hold of the disk.
func compare(t *testing.T, paths []string) {
	t.Helper()
	var first []byte
	for i, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b = b[mirror.DataOffset:]; i == 0 {
			first = b
		} else if !bytes.Equal(b, first) {
			t.Errorf("%s and %s differ", paths[0], path)
		}
	}
}

// serve serves requests of a mirror one after the other.
func serve(t *testing.T, m *mirror.Mirror) *queuetest.Device {
	t.Helper()
	return queuetest.Start(t, queuetest.Options{NewPart: m.NewPart})
}

func end(t *testing.T, d *queuetest.Device) {
	t.Helper()
	d.TakeBack()
	if err := d.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, d *queuetest.Device, off int64, data []byte) {
	t.Helper()
	if err := d.Do(&queuetest.IO{Op: queue.OpWrite, Off: off, Data: data}); err != nil {
		t.Fatalf("write of %d bytes at %d: %v", len(data), off, err)
	}
}

func expect(t *testing.T, d *queuetest.Device, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := d.Do(&queuetest.IO{Op: queue.OpRead, Off: off, Data: got}); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at %d are others, %v", len(want), off, err)
	}
}

// sealed makes a leg in memory, of which seal makes all writes fail.
func sealed(t *testing.T) (path string, seal func()) {
	t.Helper()
	fd, err := unix.MemfdCreate("leg", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, legSize); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != nil {
			t.Fatal(err)
		}
	}
}

// A leg that can't be written goes out, and the device goes on; the last one says what it can't do. A
// leg that is out may be missing.
func TestFailedLeg(t *testing.T) {
	bad, seal := sealed(t)
	good := newLegs(t, t.TempDir(), 1)[0]
	m := open(t, []string{bad, good}, mirror.Options{Format: true})
	await(t, m, "in-sync", "in-sync")
	d := serve(t, m)
	data := bytes.Repeat([]byte("mirrored"), 8192)
	write(t, d, 0, data)
	seal()
	write(t, d, 4096, data)
	await(t, m, "out", "in-sync")
	if s := m.Status(); !strings.Contains(s[0].Error, "leg 0, "+bad) || s[0].Behind == 0 || s[0].Errors == 0 || s[1].Errors > 0 {
		t.Errorf("the status of the legs is %+v", s)
	}
	expect(t, d, 0, append(bytes.Clone(data[:4096]), data...))
	if err := d.Do(&queuetest.IO{Op: queue.OpFlush}); err != nil {
		t.Errorf("a flush with one leg: %v", err)
	}
	end(t, d)
	closeMirror(t, m)

	m = open(t, []string{good, "/does/not/exist"}, mirror.Options{})
	if notes := m.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "/does/not/exist") {
		t.Errorf("notes %q", notes)
	}
	d = serve(t, m)
	expect(t, d, 4096, data)
	end(t, d)
	closeMirror(t, m)
}

// A leg that comes back gets what it lacks, and only that; a fresh one gets everything.
func TestLegComesBack(t *testing.T) {
	dir := t.TempDir()
	paths := newLegs(t, dir, 2)
	m := open(t, paths, mirror.Options{Format: true, RegionSize: 64 << 10})
	await(t, m, "in-sync", "in-sync")
	d := serve(t, m)
	old := bytes.Repeat([]byte("before! "), 32<<10)
	write(t, d, 0, old)
	end(t, d)
	closeMirror(t, m)

	if _, err := mirror.Open(paths[:1], mirror.Options{}); !errors.Is(err, mirror.ErrIncomplete) || !errors.Is(err, queue.ErrInvalid) {
		t.Fatalf("a leg is missing: %v", err)
	}
	m = open(t, paths[:1], mirror.Options{Degraded: true})
	d = serve(t, m)
	write(t, d, 64<<10, []byte(strings.Repeat("since   ", 64)))
	// So that it is seen what is copied: no more than the region that was written.
	overwrite(t, paths[1], mirror.DataOffset+128<<10, []byte("untouched"))
	if err := m.AddLeg(paths[1], false); err != nil {
		t.Fatal(err)
	}
	await(t, m, "in-sync", "in-sync")
	if err := m.AddLeg(paths[1], false); !errors.Is(err, queue.ErrInvalid) || !strings.Contains(err.Error(), "in-sync") {
		t.Errorf("a leg that is there is added: %v", err)
	}
	end(t, d)
	closeMirror(t, m)
	b, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	b = b[mirror.DataOffset:]
	if !bytes.HasPrefix(b[64<<10:], []byte("since   ")) || !bytes.HasPrefix(b[128<<10:], []byte("untouched")) {
		t.Error("the region that was written was not copied, or another one was")
	}

	m = open(t, paths[:1], mirror.Options{Degraded: true})
	fresh := newLegs(t, t.TempDir(), 1)[0]
	if err := m.AddLeg(fresh, false); err == nil || !strings.Contains(err.Error(), "--format") {
		t.Errorf("a file that is no leg: %v", err)
	}
	if err := m.AddLeg(fresh, true); err != nil {
		t.Fatal(err)
	}
	await(t, m, "in-sync", "in-sync")
	d = serve(t, m)
	write(t, d, 512<<10, []byte(strings.Repeat("without ", 64)))
	end(t, d)
	closeMirror(t, m)
	compare(t, []string{paths[0], fresh})
	// The leg whose place was taken lacks what was written since: all of it is copied.
	m = open(t, paths, mirror.Options{})
	await(t, m, "in-sync", "in-sync")
	closeMirror(t, m)
	compare(t, paths)
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

// Legs that were used apart are not put together again, unless it is said which one counts.
func TestSplit(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 2)
	m := open(t, paths, mirror.Options{Format: true})
	await(t, m, "in-sync", "in-sync")
	closeMirror(t, m)
	for i, text := range []string{"left", "right"} {
		m := open(t, paths[i:i+1], mirror.Options{Degraded: true})
		d := serve(t, m)
		write(t, d, 0, bytes.Repeat([]byte((text + "    ")[:8]), 64))
		if other := paths[1-i]; i == 1 {
			if err := m.AddLeg(other, false); !errors.Is(err, mirror.ErrSplit) {
				t.Errorf("a leg that was used alone is added: %v", err)
			}
		}
		end(t, d)
		closeMirror(t, m)
	}
	if _, err := mirror.Open(paths, mirror.Options{}); !errors.Is(err, mirror.ErrSplit) || !strings.Contains(err.Error(), paths[0]) {
		t.Fatalf("a split mirror: %v", err)
	}
	m = open(t, paths, mirror.Options{ResyncFrom: paths[1]})
	await(t, m, "in-sync", "in-sync")
	closeMirror(t, m)
	compare(t, paths)
	if b, err := os.ReadFile(paths[0]); err != nil || !bytes.HasPrefix(b[mirror.DataOffset:], []byte("right   ")) {
		t.Errorf("the leg that does not count was not overwritten, %v", err)
	}
}

// What a process that was killed leaves is made equal: the legs differ where it was writing.
func TestUnclean(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 2)
	m := open(t, paths, mirror.Options{Format: true, RegionSize: 64 << 10})
	await(t, m, "in-sync", "in-sync")
	d := serve(t, m)
	write(t, d, 70000&^511, bytes.Repeat([]byte{7}, 512))
	var copies []string
	for i, path := range paths { // as they are at this moment
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err := os.WriteFile(copies[i], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	end(t, d)
	closeMirror(t, m)
	overwrite(t, copies[0], mirror.DataOffset+64<<10, []byte("here"))
	overwrite(t, copies[1], mirror.DataOffset+64<<10, []byte("also"))
	m = open(t, copies, mirror.Options{})
	d = serve(t, m)
	expect(t, d, 64<<10, append([]byte("here"), make([]byte, 508)...))
	await(t, m, "in-sync", "in-sync")
	end(t, d)
	closeMirror(t, m)
	compare(t, copies)
}

func TestRefusals(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 3)
	closeMirror(t, open(t, paths[:2], mirror.Options{Format: true}))
	other := newLegs(t, t.TempDir(), 2)
	closeMirror(t, open(t, other, mirror.Options{Format: true}))
	small := newLegs(t, t.TempDir(), 2)
	if err := os.Truncate(small[1], legSize-4096); err != nil {
		t.Fatal(err)
	}
	twin := filepath.Join(t.TempDir(), "twin")
	b, err := os.ReadFile(paths[0])
	if err := errors.Join(err, os.WriteFile(twin, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(paths[0], link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		paths []string
		o     mirror.Options
		says  string
	}{
		{paths[:1], mirror.Options{Format: true}, "a mirror over 1 files"},
		{small, mirror.Options{Format: true}, "legs have the same size"},
		{paths[:2], mirror.Options{Format: true}, "is a leg of the mirror"},
		{paths, mirror.Options{}, "no superblock of a mirror"},
		{[]string{paths[0], link}, mirror.Options{}, "are the same file"},
		{[]string{paths[0], twin}, mirror.Options{}, "one is a copy"},
		{[]string{paths[0], other[1]}, mirror.Options{}, "is a leg of the mirror"},
		{paths[1:2], mirror.Options{}, "missing: leg 0"},
		{[]string{paths[0], "/does/not/exist"}, mirror.Options{}, "no such file"},
		{paths[:2], mirror.Options{ResyncFrom: "/elsewhere"}, "none of the legs"},
		{paths[:2], mirror.Options{BlockSize: 4096}, "which stay as they are"},
		{small, mirror.Options{Format: true, ReadOnly: true}, "read only"},
		{[]string{paths[0], t.TempDir()}, mirror.Options{}, "is a directory"},
	} {
		m, err := mirror.Open(c.paths, c.o)
		if err == nil {
			closeMirror(t, m)
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, %+v: %v, want an error that says %q", c.paths, c.o, err, c.says)
		}
	}
	if err := os.Truncate(paths[1], legSize-4096); err != nil {
		t.Fatal(err)
	}
	if _, err := mirror.Open(paths[:2], mirror.Options{}); err == nil || !strings.Contains(err.Error(), "has shrunk") {
		t.Errorf("a leg has shrunk: %v", err)
	}
}

// A read that fails on a leg is served by another, and repaired there.
func TestRepair(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 2)
	m := open(t, paths, mirror.Options{Format: true, Buffered: true})
	await(t, m, "in-sync", "in-sync")
	d := serve(t, m)
	data := bytes.Repeat([]byte("repaired"), 512)
	write(t, d, diskSize-4096, data)
	for i := range paths { // which one a read goes to is not known
		if err := os.Truncate(paths[i], legSize-4096); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			expect(t, d, diskSize-4096, data)
			if fi, err := os.Stat(paths[i]); err == nil && fi.Size() == legSize {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("leg %d was not repaired", i)
			}
		}
		if s := m.Status()[i]; s.Errors == 0 {
			t.Errorf("the status of the leg that could not be read is %+v", s)
		}
	}
	await(t, m, "in-sync", "in-sync")
	end(t, d)
	closeMirror(t, m)
	compare(t, paths)
}

// A mirror that is only read changes nothing.
func TestReadOnly(t *testing.T) {
	paths := newLegs(t, t.TempDir(), 2)
	closeMirror(t, open(t, paths, mirror.Options{Format: true}))
	before, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, paths, mirror.Options{ReadOnly: true})
	d := serve(t, m)
	expect(t, d, 4096, make([]byte, 4096))
	if err := d.Do(&queuetest.IO{Op: queue.OpWrite, Data: make([]byte, 512)}); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write: %v, want EROFS", err)
	}
	end(t, d)
	closeMirror(t, m)
	if after, err := os.ReadFile(paths[1]); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a leg has changed, %v", err)
	}
	if _, err := backing.Open(paths[0], backing.Options{}); err != nil {
		t.Errorf("a leg is in use afterwards: %v", err)
	}
}

// A request of a mirror allocates no more than that of its legs: nothing.
func TestNoAllocation(t *testing.T) {
	m := open(t, newLegs(t, shm(t), 2), mirror.Options{Format: true})
	await(t, m, "in-sync", "in-sync")
	d := serve(t, m)
	data := make([]byte, 4096)
	io := []*queuetest.IO{{Op: queue.OpWrite, Data: data}, {Op: queue.OpRead, Data: data}}
	write(t, d, 0, data)
	const runs = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs { // not testing.AllocsPerRun: it leaves one processor to the queue and to what waits for it
		for _, one := range io {
			if err := d.Do(one); err != nil {
				t.Fatal(err)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if n := float64(after.Mallocs-before.Mallocs) / runs; n > 0.5 {
		t.Errorf("a write and a read allocate %.1f times", n)
	}
	end(t, d)
	closeMirror(t, m)
}
