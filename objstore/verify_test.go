package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// logBuffer is a log that goroutines write to.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// flipOnDisk changes one bit at a place of a segment, past all caches of the store.
func flipOnDisk(t *testing.T, dir string, seg uint32, off int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, segment.Name(seg)), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Sync())
}

// placeOf gives the segment and the byte in it where a byte of the image lies.
func locationOf(t *testing.T, im Image, off int64) (seg uint32, fileOff int64) {
	t.Helper()
	var p Plan
	from := off / SectorSize * SectorSize
	must(t, planLoaded(context.Background(), im, from, SectorSize, &p))
	defer im.Release(&p)
	c := &p.Pieces[0]
	if c.Hole || !c.settled {
		t.Fatalf("byte %d is not in a settled chunk: %+v", off, *c)
	}
	return c.seg.ID, c.FileOff + off - from
}

// verifyWorld is a store with a settled volume of 40 chunks, the last of them partial, and some of
// them in pieces.
func verifyWorld(t *testing.T, chunk int, o Options) (s *Store, v *Volume, dir string, data []byte) {
	t.Helper()
	dir = t.TempDir()
	must(t, Init(dir, InitOptions{ChunkSize: chunk}))
	o.SegmentSize, o.SettleDelay = 8<<20, -1
	s = openTest(t, dir, o)
	size := int64(40*chunk - 3*SectorSize)
	_, err := s.CreateVolume(t.Context(), "v", VolumeOptions{Size: size, Verify: true})
	must(t, err)
	v, err = s.OpenVolume("v", "test")
	must(t, err)
	data = randomBytes(7, int(size))
	clear(data[5*chunk : 8*chunk]) // holes
	_, err = v.WriteAt(data, 0)
	must(t, err)
	must(t, s.Settle(t.Context()))
	// Chunks that settled from old and new: copied, and so no longer beside their neighbours.
	for _, off := range []int{2*chunk + 700, 11*chunk - 100, 30 * chunk} {
		copy(data[off:], randomBytes(uint64(off), 300))
		_, err = v.WriteAt(data[off:off+300], int64(off))
		must(t, err)
	}
	must(t, s.Settle(t.Context()))
	return s, v, dir, data
}

func TestVerifiedRead(t *testing.T) {
	for _, chunk := range []int{4096, 16384, 65536} {
		t.Run(fmt.Sprint(chunk), func(t *testing.T) {
			var log logBuffer
			s, v, dir, data := verifyWorld(t, chunk, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			defer s.Close()
			_, err := s.CreateSnapshot(t.Context(), "v", "snap")
			must(t, err)
			snap, err := s.WaitSnapshot(t.Context(), "v", "snap")
			must(t, err)
			view, err := s.OpenSnapshot("v", "snap")
			must(t, err)
			byRoot, err := s.OpenRoot(snap.Root)
			must(t, err)
			images := map[string]Image{"volume": v, "snapshot": view, "root": byRoot}
			for name, im := range images {
				wantRead(t, im, 0, data)
				wantRead(t, im, int64(3*chunk+513), data[3*chunk+513:9*chunk+99])
				if t.Failed() {
					t.Fatal(name)
				}
			}
			for i := range 40 {
				at := int64(i*chunk + (i*977)%(chunk-3*SectorSize))
				if i >= 5 && i < 8 {
					continue // holes
				}
				seg, fileOff := locationOf(t, v, at)
				flipOnDisk(t, dir, seg, fileOff)
				for name, im := range images {
					wantDamage(t, name, im, data, i, chunk, segment.Name(seg))
				}
				flipOnDisk(t, dir, seg, fileOff)
			}
			for name, im := range images {
				wantRead(t, im, 0, data)
				if t.Failed() {
					t.Fatal(name)
				}
			}
			first, last := 3*chunk/SectorSize, 4*chunk/SectorSize-1
			for _, want := range []string{"volume=v", fmt.Sprintf("first_sector=%d last_sector=%d", first, last), "file=segments/", "offset=", "hash="} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, log.String())
				}
			}
		})
	}
}

// wantDamage: with chunk i damaged, each sector of it is an error, and all others read right.
func wantDamage(t *testing.T, name string, im Image, data []byte, i, chunk int, file string) {
	t.Helper()
	buf := make([]byte, SectorSize)
	for off := max(0, (i-1)*chunk); off < min(len(data), (i+2)*chunk); off += SectorSize {
		_, err := im.ReadAt(buf, int64(off))
		inside := off/chunk == i
		var bad *CorruptError
		switch {
		case inside && (!errors.As(err, &bad) || bad.File != file || !strings.Contains(bad.Object, "volume v")):
			t.Fatalf("%s: read of damaged chunk %d at %d: %v", name, i, off, err)
		case !inside && err != nil:
			t.Fatalf("%s: with chunk %d damaged, read at %d: %v", name, i, off, err)
		case !inside && !bytes.Equal(buf, data[off:off+SectorSize]):
			t.Fatalf("%s: with chunk %d damaged, other bytes at %d", name, i, off)
		}
	}
	// A long read that has the chunk in its midst fails; one that ends before it does not.
	if _, err := im.ReadAt(make([]byte, len(data)), 0); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%s: read over damaged chunk %d: %v", name, i, err)
	}
	if i > 0 {
		wantRead(t, im, 0, data[:i*chunk])
	}
}

// TestVerifiedReadOfTail: what was written over a damaged chunk is read; the rest of the chunk is
// not. Settling repairs it when it was written whole.
func TestVerifiedReadOfTail(t *testing.T) {
	const chunk = 16384
	s, v, dir, data := verifyWorld(t, chunk, Options{})
	defer s.Close()
	seg, off := locationOf(t, v, 20*chunk+5000)
	flipOnDisk(t, dir, seg, off)
	fresh := randomBytes(99, 4096)
	_, err := v.WriteAt(fresh, 20*chunk+4096)
	must(t, err)
	wantRead(t, v, 20*chunk+4096, fresh)
	if _, err := v.ReadAt(make([]byte, 4096), 20*chunk); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read beside what was written over a damaged chunk: %v", err)
	}
	whole := randomBytes(100, chunk)
	_, err = v.WriteAt(whole, 20*chunk)
	must(t, err)
	copy(data[20*chunk:], whole)
	wantRead(t, v, 0, data)
	must(t, s.Settle(t.Context()))
	wantRead(t, v, 0, data)
}

// TestVerifyIsAProperty: it is kept with the volume, takes effect at once, and without it the bytes
// come as they are.
func TestVerifyIsAProperty(t *testing.T) {
	const chunk = 16384
	s, v, dir, data := verifyWorld(t, chunk, Options{})
	seg, off := locationOf(t, v, 9*chunk+1)
	flipOnDisk(t, dir, seg, off)
	buf := make([]byte, len(data))
	check := func(s *Store, v *Volume, on bool) {
		t.Helper()
		if i, err := s.VolumeInfo("v"); err != nil || i.Verify != on {
			t.Fatalf("the volume says verify=%v, %v; want %v", i.Verify, err, on)
		}
		_, err := v.ReadAt(buf, 0)
		if on && !errors.Is(err, ErrCorrupt) {
			t.Errorf("with verify: %v", err)
		}
		if !on {
			must(t, err)
			if data[9*chunk+1] ^= 0x10; !bytes.Equal(buf, data) {
				t.Error("without verify: something else than the flipped bit differs")
			}
			data[9*chunk+1] ^= 0x10
		}
	}
	check(s, v, true)
	_, err := s.SetVerify(t.Context(), "v", false)
	must(t, err)
	check(s, v, false)
	reopen := func() {
		t.Helper()
		must(t, v.Close())
		must(t, s.Close())
		s = openTest(t, dir, Options{SegmentSize: 8 << 20, SettleDelay: -1})
		v, err = s.OpenVolume("v", "test")
		must(t, err)
	}
	reopen()
	check(s, v, false)
	_, err = s.SetVerify(t.Context(), "v", true)
	must(t, err)
	check(s, v, true)
	reopen()
	check(s, v, true)
	if _, err := s.SetVerify(t.Context(), "none", true); !errors.Is(err, ErrNotFound) {
		t.Errorf("set on a volume that is not there: %v", err)
	}
	must(t, s.Close())
}

// TestRefsKeepVerify: the shortened log leads to the same state.
func TestRefsKeepVerify(t *testing.T) {
	r := refs.NewState(disk.MaxChunkSize)
	id := [16]byte{1}
	for _, rec := range []refs.Record{
		{Op: refs.OpVolume, ID: id, Name: "v", Size: 1 << 20, BlockSize: 512},
		{Op: refs.OpVerify, ID: id, Verify: true},
	} {
		must(t, r.Apply(&rec))
	}
	again := refs.NewState(disk.MaxChunkSize)
	for rec := range r.Records {
		must(t, again.Apply(&rec))
	}
	if !again.ByID[id].Verify {
		t.Error("the property is lost")
	}
}

func BenchmarkReadVerified(b *testing.B) {
	for _, verify := range []bool{false, true} {
		for _, n := range []int{4096, 65536, 524288} {
			b.Run(fmt.Sprintf("verify=%v/%d", verify, n), func(b *testing.B) {
				dir := b.TempDir()
				must(b, Init(dir, InitOptions{}))
				s := openTest(b, dir, Options{SettleDelay: -1})
				defer s.Close()
				_, err := s.CreateVolume(b.Context(), "v", VolumeOptions{Size: 64 << 20, Verify: verify})
				must(b, err)
				v, err := s.OpenVolume("v", "bench")
				must(b, err)
				_, err = v.WriteAt(randomBytes(1, 64<<20), 0)
				must(b, err)
				must(b, s.Settle(b.Context()))
				buf := disk.AlignedBuffer(n)
				var p Plan
				b.SetBytes(int64(n))
				b.ReportAllocs()
				off := int64(0)
				for b.Loop() {
					must(b, planLoaded(b.Context(), v, off, n, &p))
					must(b, p.Read(buf))
					v.Release(&p)
					if off += int64(n) * 7; off > 63<<20 {
						off = off % 4096 * int64(n) % (60 << 20)
					}
				}
			})
		}
	}
}
