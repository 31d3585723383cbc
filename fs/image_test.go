package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// sparse creates a volume of 64 MiB with three extents of data, and returns the number of bytes of
// data.
func sparse(t *testing.T, src *fakeSource) (*fakeVolume, int64) {
	t.Helper()
	v := src.create("vol", 64*mib)
	var data int64
	for _, c := range []struct {
		off int64
		len int
	}{{0, 128 * 1024}, {20 * mib, 1 * mib}, {64*mib - 4096, 4096}} {
		if _, err := v.WriteAt(noise(c.len), c.off); err != nil {
			t.Fatal(err)
		}
		data += int64(c.len)
	}
	return v, data
}

func sum(t *testing.T, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func sumFile(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return sum(t, f)
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestImageIsSparse(t *testing.T) {
	for _, settled := range []bool{true, false} {
		src := newFakeSource()
		v, data := sparse(t, src)
		info := src.snapshot("vol", "s", settled)
		s := mountSource(t, src, Options{})
		want := sum(t, io.NewSectionReader(v, 0, v.Size()))
		paths := []string{"snapshots/vol/s/disk.img"}
		if settled {
			paths = append(paths, "by-id/"+info.Root+"/disk.img")
		}
		for _, path := range paths {
			path = filepath.Join(s.Dir(), path)
			if du := run(t, "du", "--block-size=1", path); !strings.HasPrefix(du, "1183744\t") || data != 1183744 {
				t.Errorf("%s: du says %q, want %d", path, du, data)
			}
			if got := sumFile(t, path); got != want {
				t.Errorf("%s: other content", path)
			}
			for _, how := range []string{"auto", "always"} {
				dst := filepath.Join(t.TempDir(), "copy")
				run(t, "cp", "--sparse="+how, path, dst)
				if got := blocks(t, dst); got > data+64*1024 {
					t.Errorf("cp --sparse=%s of %s takes %d bytes, the data is %d", how, path, got, data)
				}
				if got := sumFile(t, dst); got != want {
					t.Errorf("cp --sparse=%s of %s: other content", how, path)
				}
			}
		}
	}
}

func TestImageIsReadOnly(t *testing.T) {
	src := newFakeSource()
	sparse(t, src)
	src.snapshot("vol", "s", true)
	s := mountSource(t, src, Options{})
	path := filepath.Join(s.Dir(), "snapshots/vol/s/disk.img")
	for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC} {
		_, err := os.OpenFile(path, flags, 0)
		wantErrno(t, "open for writing", err, unix.EROFS)
	}
	wantErrno(t, "truncate", os.Truncate(path, 0), unix.EROFS)
	wantErrno(t, "chmod", os.Chmod(path, 0o600), unix.EROFS)
	wantErrno(t, "remove", os.Remove(path), unix.EPERM)
	wantErrno(t, "rmdir", os.Remove(filepath.Dir(path)), unix.EPERM)
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o400 || st.Size() != 64*mib {
		t.Errorf("afterwards %v %v", st, err)
	}
}

// A snapshot that was deleted and created again must not be read from the old one's cached pages.
func TestImageRecreated(t *testing.T) {
	src := newFakeSource()
	v := src.create("vol", mib)
	s := mountSource(t, src, Options{})
	path := filepath.Join(s.Dir(), "snapshots/vol/s/disk.img")
	var inodes []uint64
	for round := range 3 {
		want := bytes.Repeat([]byte{byte(round + 1)}, mib)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		src.snapshot("vol", "s", round%2 == 0)
		for range 2 {
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("round %d reads another round's content, %v", round, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		for _, ino := range inodes {
			if ino == st.Ino {
				t.Error("an inode number is reused")
			}
		}
		inodes = append(inodes, st.Ino)
		src.removeSnapshot("vol", "s")
		_, err := os.Stat(path)
		wantErrno(t, "stat of a deleted snapshot's image", err, unix.ENOENT)
	}
}

// An open image stays readable after its snapshot is deleted.
func TestImageOutlivesItsName(t *testing.T) {
	src := newFakeSource()
	v, _ := sparse(t, src)
	src.snapshot("vol", "s", true)
	s := mountSource(t, src, Options{})
	f, err := os.Open(filepath.Join(s.Dir(), "snapshots/vol/s/disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src.removeSnapshot("vol", "s")
	if st, err := f.Stat(); err != nil || st.Size() != v.Size() {
		t.Errorf("fstat: %v %v", st, err)
	}
	if sum(t, f) != sum(t, io.NewSectionReader(v, 0, v.Size())) {
		t.Error("other content")
	}
}

func TestImageConcurrentReaders(t *testing.T) {
	src := newFakeSource()
	v, _ := sparse(t, src)
	src.snapshot("vol", "s", true)
	s := mountSource(t, src, Options{})
	want := sum(t, io.NewSectionReader(v, 0, v.Size()))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			f, err := os.Open(filepath.Join(s.Dir(), "snapshots/vol/s/disk.img"))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil || [32]byte(h.Sum(nil)) != want {
				t.Errorf("a reader saw other content: %v", err)
			}
		})
	}
	wg.Wait()
}

// truncated is an image that ends before its size, as a bug in a lower layer could cause.
type truncated struct{ *fakeDisk }

func (truncated) ReadContext(_ context.Context, p []byte, _ int64) (int, error) {
	return len(p) / 2, io.EOF
}

func TestShortReadIsAnError(t *testing.T) {
	im := truncated{newFakeDisk(mib)}
	if n, err := readAt(t.Context(), im, make([]byte, 4096), 0); n != 0 || err == nil {
		t.Errorf("a short read in the middle returned %d, %v", n, err)
	}
	if n, err := readAt(t.Context(), newFakeDisk(mib), make([]byte, 4096), mib-10); n != 10 || err != nil {
		t.Errorf("a read across the end returned %d, %v", n, err)
	}
	if n, err := readAt(t.Context(), newFakeDisk(mib), make([]byte, 4096), 2*mib); n != 0 || err != nil {
		t.Errorf("a read beyond the end returned %d, %v", n, err)
	}
}
