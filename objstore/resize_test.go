package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// content reads a whole image.
func content(t *testing.T, im Image) []byte {
	t.Helper()
	b := make([]byte, im.Size())
	_, err := im.ReadAt(b, 0)
	must(t, err)
	return b
}

// A volume grows and shrinks across the depths of its tree, open or not, settled or not; what is
// beyond an end is gone, and each snapshot keeps its size and its content, also of a volume that was
// never written.
func TestResize(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	const mib = 1 << 20 // what a leaf covers, of chunks of 4 KiB
	v := r.volume("a", mib)
	want := map[string][]byte{}
	snap := func(name string, content []byte) {
		t.Helper()
		_, err := r.s.CreateSnapshot(ctx, "a", name)
		must(t, err)
		want[name] = bytes.Clone(content)
	}
	resize := func(size int64, shrink bool) VolumeInfo {
		t.Helper()
		i, err := r.s.ResizeVolume(ctx, "a", size, ResizeOptions{Shrink: shrink})
		must(t, err)
		if i.Size != size {
			t.Errorf("%+v, want %d bytes", i, size)
		}
		return i
	}
	model := make([]byte, mib)
	write := func(off int64, n int) {
		t.Helper()
		copy(model[off:], randomBytes(uint64(off)+1, n))
		r.write(v, model[off:off+int64(n)], off)
	}
	snap("never-written", model)
	resize(3*mib, false)
	model = append(model, make([]byte, 2*mib)...)
	write(3*mib-5000, 5000) // the new end, by the same handle
	write(100, 9000)
	if _, err := v.WriteAt([]byte{1}, 3*mib); !errors.Is(err, ErrInvalid) {
		t.Errorf("a write beyond the new end: %v", err)
	}
	snap("not-settled", model)
	write(mib, 9000)
	resize(3*mib+512, false) // settles the snapshot; what was written since is in the tail
	if r.s.catalog.info(v.volume).Tail == 0 {
		t.Error("the whole tail was settled")
	}
	model = append(model, make([]byte, 512)...)
	write(3*mib, 512)
	must(t, v.Close())
	snap("grown", model)

	i := resize(mib+700*512, true) // within a chunk
	model = model[:mib+700*512]
	if i.Tail != 0 {
		t.Errorf("tail %d", i.Tail)
	}
	v = r.volume("a", 0)
	if got := content(t, v); !bytes.Equal(got, model) {
		t.Error("shrunk, it holds something else")
	}
	must(t, v.Close())
	snap("shrunk", model)
	resize(600*mib, false) // three levels
	model = append(model, make([]byte, 3*mib)...)
	v = r.volume("a", 0)
	got := make([]byte, len(model))
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
		t.Errorf("grown again, it does not hold zeroes beyond the earlier end (%v)", err)
	}
	must(t, v.Close())
	i = resize(4096, true)
	if root := r.s.sb.emptyRoot(4096); i.Logical != 4096 || i.Root == root.Hash().String() {
		t.Errorf("%+v", i)
	}
	model = model[:4096]

	check := func(what string) {
		t.Helper()
		r.undamaged(what)
		if got := content(t, r.volume("a", 0)); !bytes.Equal(got, model) {
			t.Errorf("%s: the volume holds something else", what)
		}
		for name, want := range want {
			view, err := r.s.OpenSnapshot("a", name)
			must(t, err)
			info, err := r.s.SnapshotInfo("a", name)
			must(t, err)
			if view.Size() != int64(len(want)) || info.Size != view.Size() || !bytes.Equal(content(t, view), want) {
				t.Errorf("%s: snapshot %s has %d bytes (%d), want %d, or other ones", what, name, view.Size(), info.Size, len(want))
			}
			must(t, view.Close())
		}
		if report, err := r.s.Check(ctx, nil); err != nil || report.Damaged() > 0 {
			t.Errorf("%s: check: %v, %+v", what, err, report)
		}
	}
	check("in use")
	must(t, r.s.Settle(ctx))
	check("settled")
	must(t, r.reopened(r.mem.Kill(), "boot"))
	check("killed")
	r.longRefs()
	r.open(nil)
	check("compacted")
	must(t, r.reopened(r.mem.PowerCut(newRand(1)), "next boot"))
	check("cut")
}

// A snapshot of another size than its volume is rolled back to and cloned with its own size.
func TestRollbackAcrossResize(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	small := randomBytes(1, 1<<20)
	r.write(v, small, 0)
	_, err := r.s.CreateSnapshot(ctx, "a", "small")
	must(t, err)
	_, err = r.s.ResizeVolume(ctx, "a", 3<<20, ResizeOptions{})
	must(t, err)
	large := append(bytes.Clone(small), randomBytes(2, 2<<20)...)
	r.write(v, large[2<<20:], 2<<20)
	clear(large[1<<20 : 2<<20])
	must(t, v.Close())
	c, err := r.s.CloneVolume(ctx, "a", "small", "c")
	must(t, err)
	back, err := r.s.RollbackVolume(ctx, "a", "small", RollbackOptions{})
	must(t, err)
	if c.Size != 1<<20 || back.Volume.Size != 1<<20 {
		t.Errorf("clone of %d bytes, rolled back to %d", c.Size, back.Volume.Size)
	}
	for range 2 {
		for _, name := range []string{"a", "c"} {
			if !bytes.Equal(content(t, r.volume(name, 0)), small) {
				t.Errorf("volume %s holds something else", name)
			}
		}
		view, err := r.s.OpenSnapshot("a", back.Snapshot)
		must(t, err)
		if !bytes.Equal(content(t, view), large) {
			t.Errorf("the state before, of %d bytes, is not kept", view.Size())
		}
		must(t, view.Close())
		must(t, r.reopened(r.mem.Kill(), "boot"))
		r.undamaged("rolled back")
	}
}

// What can't be: each refusal names the volume, the value and what would be right, and leaves the
// store without the feature.
func TestResizeRefused(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	_, err := r.s.CreateVolume(ctx, "a", VolumeOptions{Size: 1 << 20, BlockSize: 4096})
	must(t, err)
	v := r.volume("a", 0)
	for _, c := range []struct {
		size   int64
		shrink bool
		want   error
		words  []string
	}{
		{512, true, ErrInvalid, []string{"volume a", "512", "multiple of the block size 4096"}},
		{0, true, ErrInvalid, []string{"volume a", "0 bytes"}},
		{MaxVolumeSize + 4096, false, ErrInvalid, []string{"at most"}},
		{4096, false, ErrInvalid, []string{"1048576", "4096", "1044480", "shrink"}},
		{4096, true, ErrInUse, []string{"volume a", "in use by test", "detached"}},
	} {
		_, err := r.s.ResizeVolume(ctx, "a", c.size, ResizeOptions{Shrink: c.shrink})
		if !errors.Is(err, c.want) {
			t.Errorf("size %d, shrink %v: %v", c.size, c.shrink, err)
			continue
		}
		for _, word := range c.words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("size %d, shrink %v: %q lacks %q", c.size, c.shrink, err, word)
			}
		}
	}
	if _, err := r.s.ResizeVolume(ctx, "b", 4096, ResizeOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	_, err = r.s.ResizeVolume(ctx, "a", 1<<20, ResizeOptions{}) // as it is
	must(t, err)
	if first, _ := onDisk(t, r.mem); first != (refs.Features{}) {
		t.Errorf("the store uses %v", first.Names())
	}
	must(t, v.Close())
	_, err = r.s.CreateSnapshot(ctx, "a", "s")
	must(t, err)
	i, err := r.s.CreateScratch(ctx, "a", "s")
	must(t, err)
	if _, err := r.s.ResizeVolume(ctx, i.Name, 1<<21, ResizeOptions{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a scratch volume was resized: %v", err)
	}
	_, err = r.s.ResizeVolume(ctx, "a", 2<<20, ResizeOptions{})
	must(t, err)
	if first, second := onDisk(t, r.mem); first != refs.NewFeatures(refs.Resize) || second != first {
		t.Errorf("the store uses %v", first.Names())
	}
}

// A volume does not shrink to an end within a chunk that is damaged: what is left of the chunk would
// get a hash that vouches for it. It stays as it is, and can end elsewhere.
func TestShrinkWithinDamagedChunk(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 1<<20), 0)
	must(t, r.s.Settle(ctx))
	var p Plan
	must(t, planLoaded(ctx, v, 40960, 4096, &p))
	g, off := p.Pieces[0].seg, p.Pieces[0].FileOff
	v.Release(&p)
	must(t, v.Close())
	overwrite(t, r.mem, fmt.Sprintf("segments/%08x.seg", g.ID), []byte("rotten"), off+100)
	if _, err := r.s.ResizeVolume(ctx, "a", 40960+512, ResizeOptions{Shrink: true}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "41472") {
		t.Errorf("%v", err)
	}
	i, err := r.s.VolumeInfo("a")
	must(t, err)
	if i.Size != 1<<20 || i.Tail != 0 {
		t.Errorf("%+v", i)
	}
	_, err = r.s.ResizeVolume(ctx, "a", 40960, ResizeOptions{Shrink: true})
	must(t, err)
	content(t, r.volume("a", 0))
}

// A resize that can't seal the segment that it has filled is an error, and has changed nothing.
func TestResizeThatCantSeal(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.s.Close())
	var footer atomic.Int64 // where it begins
	r.open(func(op vfs.Op) error {
		if n := footer.Load(); n > 0 && op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, segment.Dir) && op.Off >= n {
			return syscall.EIO
		}
		return nil
	})
	v := r.volume("a", 1<<20)
	r.write(v, randomBytes(1, 4096), 0)
	must(t, r.s.Settle(t.Context()))
	g := r.s.layerSettler.appenders.nodes.open
	g.Next = g.Capacity - 4096 // room for the node above the top, and not for the root
	footer.Store(g.Capacity)
	_, err := r.s.ResizeVolume(t.Context(), "a", 3<<20, ResizeOptions{})
	if !g.Full || !errors.Is(err, syscall.EIO) {
		t.Fatalf("full: %v; %v", g.Full, err)
	}
	must(t, r.reopened(r.mem.Kill(), "boot"))
	if i, err := r.s.VolumeInfo("a"); err != nil || i.Size != 1<<20 {
		t.Errorf("%d bytes after a resize that has failed, %v", i.Size, err)
	}
}

// A store that takes no writes refuses a resize, and does not wait for a settler that it lacks.
func TestResizeLookedAt(t *testing.T) {
	dir := unpack(t, "01-engine")
	s, err := Open(t.Context(), dir, Options{LookOnly: true})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := s.ResizeVolume(ctx, "b", 64<<20, ResizeOptions{}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("%v", err)
	}
	must(t, s.Close())
}

// What a volume has less since it has shrunk, it is promised of its reservation at once. It does not
// shrink to less than its reservation.
func TestShrinkRenewsPromise(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 4<<20)
	r.limit("a", 0, 1<<20)
	r.write(v, randomBytes(1, 256<<10), 0)
	r.write(v, randomBytes(2, 1<<20), 3<<20)
	must(t, v.Close())
	_, err := r.s.ResizeVolume(t.Context(), "a", 512<<10, ResizeOptions{Shrink: true})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "reservation of 1048576 bytes") {
		t.Errorf("a volume shrinks below its reservation: %v", err)
	}
	_, err = r.s.ResizeVolume(t.Context(), "a", 1<<20, ResizeOptions{Shrink: true})
	must(t, err)
	if got := r.s.space.promised.Load(); got != 1<<20-256<<10 {
		t.Errorf("%d bytes are promised, want %d", got, 1<<20-256<<10)
	}
}
