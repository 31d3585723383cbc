package fs

import (
	"bytes"
	"context"
	"errors"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

const mib = 1 << 20

// liveMount mounts a source with one volume and opens its file.
func liveMount(t *testing.T, size int64) (*fakeVolume, *os.File) {
	t.Helper()
	src := newFakeSource()
	v := src.create("vol", size)
	s := mountSource(t, src, Options{})
	f, err := os.OpenFile(filepath.Join(s.Dir(), "volumes/vol/live"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return v, f
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(p)
	return p
}

func wantErrno(t *testing.T, what string, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %s", what, err, unix.ErrnoName(want))
	}
}

func TestLiveReadsWhatWasWritten(t *testing.T) {
	v, f := liveMount(t, 8*mib)
	for _, c := range []struct {
		off int64
		len int
	}{{0, 512}, {512, 4096}, {1, 1}, {511, 2}, {4095, 4098}, {1*mib - 3, 2*mib + 7}, {8*mib - 5, 5}} {
		want := noise(c.len)
		if _, err := f.WriteAt(want, c.off); err != nil {
			t.Fatalf("write %d at %d: %v", c.len, c.off, err)
		}
		direct := make([]byte, c.len)
		if _, err := v.ReadAt(direct, c.off); err != nil || !bytes.Equal(direct, want) {
			t.Fatalf("%d at %d did not reach the volume: %v", c.len, c.off, err)
		}
		got := make([]byte, c.len)
		if _, err := f.ReadAt(got, c.off); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d at %d reads differently: %v", c.len, c.off, err)
		}
	}
}

func TestLiveIsNotCached(t *testing.T) {
	v, f := liveMount(t, mib)
	got := make([]byte, 4096)
	for round := range 3 {
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte{byte(round + 1)}, 4096)
		if _, err := v.WriteAt(want, 0); err != nil { // as a block device would
			t.Fatal(err)
		}
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: a write that bypassed the mount is not visible: %v", round, err)
		}
	}
}

func TestLiveWriteAcrossEnd(t *testing.T) {
	_, f := liveMount(t, mib)
	n, err := unix.Pwrite(int(f.Fd()), noise(4096), mib-100)
	if n != 100 || err != nil {
		t.Errorf("wrote %d bytes over the end, %v; want the 100 before it", n, err)
	}
	_, err = f.WriteAt([]byte{1}, mib)
	wantErrno(t, "write at the end", err, unix.ENOSPC)
	n, err = f.ReadAt(make([]byte, 200), mib-100)
	if n != 100 || err == nil {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != mib {
		t.Errorf("size is %v after writes over the end, %v", st.Size(), err)
	}
}

func TestLiveFlushes(t *testing.T) {
	v, f := liveMount(t, mib)
	if _, err := f.WriteAt(noise(4096), 0); err != nil {
		t.Fatal(err)
	}
	if n := v.flushed(); n != 0 {
		t.Fatalf("%d flushes before fsync", n)
	}
	if err := f.Sync(); err != nil || v.flushed() != 1 {
		t.Fatalf("fsync: %v, %d flushes", err, v.flushed())
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil || v.flushed() != 2 {
		t.Fatalf("fdatasync: %v, %d flushes", err, v.flushed())
	}
	if _, err := unix.Pwritev2(int(f.Fd()), [][]byte{noise(512)}, 0, unix.RWF_DSYNC); err != nil || v.flushed() != 3 {
		t.Fatalf("RWF_DSYNC: %v, %d flushes", err, v.flushed())
	}
	d, err := os.OpenFile(f.Name(), os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(noise(100)); err != nil || v.flushed() != 4 {
		t.Fatalf("O_SYNC write: %v, %d flushes", err, v.flushed())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLiveReportsErrors(t *testing.T) {
	v, f := liveMount(t, mib)
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{objstore.ErrNoSpace, unix.ENOSPC},
		{objstore.ErrReadOnly, unix.EROFS},
		{&objstore.CorruptError{File: "segments/1", Err: errors.New("checksum")}, unix.EIO},
		{errors.New("anything else"), unix.EIO},
	} {
		v.fail(c.err)
		_, err := f.WriteAt(noise(512), 0)
		wantErrno(t, "write", err, c.want)
		wantErrno(t, "fsync", f.Sync(), c.want)
	}
	v.fail(nil)
}

func TestLiveKeepsItsSize(t *testing.T) {
	v, f := liveMount(t, mib)
	wantErrno(t, "shrink", f.Truncate(0), unix.EPERM)
	wantErrno(t, "grow", f.Truncate(mib+1), unix.EPERM)
	wantErrno(t, "truncate by path", os.Truncate(f.Name(), 4096), unix.EPERM)
	if err := f.Truncate(mib); err != nil {
		t.Errorf("truncate to its own size: %v", err)
	}
	_, err := os.OpenFile(f.Name(), os.O_RDWR|os.O_TRUNC, 0)
	wantErrno(t, "O_TRUNC", err, unix.EPERM)
	wantErrno(t, "chmod", os.Chmod(f.Name(), 0o777), unix.EPERM)
	wantErrno(t, "remove", os.Remove(f.Name()), unix.EPERM)
	if st, err := f.Stat(); err != nil || st.Size() != mib || st.Mode().Perm() != 0o600 {
		t.Errorf("afterwards %v, %v", st, err)
	}
	if n := v.opens(); n != 1 {
		t.Errorf("%d opens of the volume, want 1", n)
	}
}

func TestLiveFallocate(t *testing.T) {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	v, f := liveMount(t, mib)
	fd := int(f.Fd())
	model := noise(mib)
	if _, err := f.WriteAt(model, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode     uint32
		off, len int64
	}{
		{unix.FALLOC_FL_PUNCH_HOLE | keep, 4096, 8192},
		{unix.FALLOC_FL_PUNCH_HOLE | keep, 20000, 1},      // inside a sector
		{unix.FALLOC_FL_PUNCH_HOLE | keep, 30000, 700},    // two ragged ends and nothing whole
		{unix.FALLOC_FL_PUNCH_HOLE | keep, 40001, 100000}, // two ragged ends around holes
		{unix.FALLOC_FL_ZERO_RANGE | keep, 300001, 4095},
		{unix.FALLOC_FL_ZERO_RANGE, 400000, 5120},
		{unix.FALLOC_FL_PUNCH_HOLE | keep, mib - 1000, 5000}, // over the end
	} {
		if err := fallocate(fd, c.mode, c.off, c.len); err != nil {
			t.Fatalf("mode %#x at %d, %d: %v", c.mode, c.off, c.len, err)
		}
		clear(model[c.off:min(c.off+c.len, mib)])
		got := make([]byte, mib)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
			t.Fatalf("mode %#x at %d, %d: wrong content, %v", c.mode, c.off, c.len, err)
		}
	}
	if hole, n, err := v.Extent(t.Context(), 4096); err != nil || !hole || n != 8192 {
		t.Errorf("the punched range is no hole: %v %d %v", hole, n, err)
	}
	if err := fallocate(fd, 0, 0, mib); err != nil {
		t.Errorf("mode 0 inside the size: %v", err)
	}
	if err := fallocate(fd, keep, 0, 2*mib); err != nil {
		t.Errorf("keep size over the end: %v", err)
	}
	wantErrno(t, "extend", fallocate(fd, 0, 0, mib+1), unix.EFBIG)
	wantErrno(t, "collapse", fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), unix.EOPNOTSUPP)
}

func TestLiveSeeksHoles(t *testing.T) {
	_, f := liveMount(t, mib)
	for _, off := range []int64{8192, 65536} {
		if _, err := f.WriteAt(noise(4096), off); err != nil {
			t.Fatal(err)
		}
	}
	const data, hole = unix.SEEK_DATA, unix.SEEK_HOLE
	for _, c := range []struct {
		from   int64
		whence int
		want   int64
	}{
		{0, data, 8192},
		{0, hole, 0},
		{8192, hole, 12288},
		{9000, data, 9000},
		{12288, data, 65536},
		{65537, hole, 69632},
		{mib - 1, hole, mib - 1},
	} {
		if got, err := f.Seek(c.from, c.whence); err != nil || got != c.want {
			t.Errorf("seek %d whence %d: %d %v, want %d", c.from, c.whence, got, err, c.want)
		}
	}
	_, err := f.Seek(69632, data)
	wantErrno(t, "data behind the last", err, unix.ENXIO)
	_, err = f.Seek(mib, hole)
	wantErrno(t, "hole at the end", err, unix.ENXIO)
	if end, err := f.Seek(0, unix.SEEK_END); err != nil || end != mib {
		t.Errorf("end is %d, %v", end, err)
	}
}

// Another process maps the file. In this process a page fault would block a thread without Go's
// scheduler knowing, and the scheduler could wait for that thread while the fault waits for this
// process's FUSE server.
func TestLiveIsMapped(t *testing.T) {
	v, f := liveMount(t, mib)
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), mapEnv+"="+f.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := make([]byte, len(mapText))
	if _, err := v.ReadAt(got, 4096); err != nil || string(got) != mapText {
		t.Errorf("the volume has %q, %v", got, err)
	}
}

// mapEnv names the file to which the test program writes mapText through a mapping, instead of
// running tests.
const (
	mapEnv  = "VARVE_FS_TEST_MAP"
	mapText = "written through a mapping"
)

func writeMapped(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if errors.Is(err, unix.ENODEV) {
		log.Fatal("no shared mapping: the kernel lacks FUSE_DIRECT_IO_ALLOW_MMAP (6.6)")
	}
	if err != nil {
		log.Fatal(err)
	}
	copy(m[4096:], mapText)
	if err := errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m), f.Close()); err != nil {
		log.Fatal(err)
	}
}

func TestLiveConcurrentUsers(t *testing.T) {
	const workers, part = 8, 512 * 1024
	_, f := liveMount(t, workers*part)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			own, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			want, got := noise(part + w)[:part], make([]byte, part)
			if _, err := own.WriteAt(want, int64(w*part)); err != nil {
				t.Error(err)
			}
			if err := own.Sync(); err != nil {
				t.Error(err)
			}
			if _, err := own.ReadAt(got, int64(w*part)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("worker %d reads other content: %v", w, err)
			}
		})
	}
	wg.Wait()
}

func TestVolumeClosesWithTheLastHandle(t *testing.T) {
	src := newFakeSource()
	v := src.create("vol", mib)
	s := mountSource(t, src, Options{})
	live := filepath.Join(s.Dir(), "volumes/vol/live")
	var files []*os.File
	for range 3 {
		f, err := os.Open(live)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info, err := src.VolumeInfo("vol")
	if err != nil || strings.Join(info.Users, ",") != "fuse" {
		t.Errorf("users are %v, %v; want fuse, once", info.Users, err)
	}
	for _, f := range files {
		if v.opens() != 1 {
			t.Fatal("closed too early")
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the volume is closed", func() bool { return v.opens() == 0 })
}
