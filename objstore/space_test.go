package objstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"varve/objstore/index"
	"varve/objstore/vfs"
)

// Small writes take a sector each, and a whole chunk and a leaf when they settle: a disk that they
// fill must still have room for that.
func TestSmallWritesFillDisk(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem(0)
	mem.SetSpace(96 << 20)
	must(t, initFS(mem, "mem", InitOptions{ChunkSize: 64 << 10}))
	s := openTest(t, "mem", Options{
		FS: mem, Index: index.NewMem(), Boot: "boot", Mount: "mount", SegmentSize: 8 << 20, Reserve: 8 << 20,
	})
	defer s.Close()
	_, err := s.CreateVolume(ctx, "a", VolumeOptions{Size: 64 << 30})
	must(t, err)
	v, err := s.OpenVolume("a", "test")
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	type write struct {
		off  int64
		data []byte
	}
	var done []write
	for {
		w := write{rng.Int64N(64<<30/4096) * 4096, randomBytes(uint64(len(done)+1), 512)}
		_, err := v.WriteAt(w.data, w.off)
		if errors.Is(err, ErrNoSpace) {
			break
		}
		must(t, err)
		if done = append(done, w); len(done) > 100000 {
			t.Fatal("the disk does not fill")
		}
	}
	t.Logf("%d writes", len(done))
	must(t, v.Flush())
	if err := s.Settle(ctx); err != nil {
		st, _ := s.Stat()
		t.Fatalf("settle on the full disk: %v; %+v", err, st)
	}
	last := map[int64][]byte{}
	for _, w := range done {
		last[w.off] = w.data
	}
	for off, data := range last {
		wantRead(t, v, off, data)
	}
}
