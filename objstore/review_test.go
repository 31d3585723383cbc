package objstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// rig is a store in memory that a test can kill, cut and open again.
type rig struct {
	t   *testing.T
	mem *vfs.Mem
	o   Options
	s   *Store
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	if o.SettleDelay == 0 {
		o.SettleDelay = -1
	}
	o.SegmentSize = max(o.SegmentSize, smallestSegment)
	o.Reserve = max(o.Reserve, 1<<20)
	o.Index, o.Boot, o.Mount = index.NewMem(), "boot", "mount"
	r := &rig{t: t, mem: vfs.NewMem(0), o: o}
	must(t, initFS(r.mem, "mem", InitOptions{ChunkSize: 4096}))
	r.open(nil)
	t.Cleanup(func() { _ = r.s.Close() })
	return r
}

// open opens the store; hook may be nil.
func (r *rig) open(hook func(vfs.Op) error) {
	r.t.Helper()
	r.o.FS = r.mem
	if hook != nil {
		r.o.FS = vfs.Inject(r.mem, hook)
	}
	s, err := Open(context.Background(), "mem", r.o)
	must(r.t, err)
	r.s = s
}

func (r *rig) volume(name string, size int64) *Volume {
	r.t.Helper()
	if _, err := r.s.VolumeInfo(name); err != nil {
		_, err := r.s.CreateVolume(context.Background(), name, VolumeOptions{Size: size})
		must(r.t, err)
	}
	v, err := r.s.OpenVolume(name, "test")
	must(r.t, err)
	return v
}

func (r *rig) write(v *Volume, p []byte, off int64) {
	r.t.Helper()
	_, err := v.WriteAt(p, off)
	must(r.t, err)
}

func TestFlushAfterSegmentRetired(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	// Zeroes settle to holes: nothing of the first segment is adopted, and it goes without ever being flushed.
	for range 3 {
		r.write(v, make([]byte, 4<<20), 0)
	}
	must(t, r.s.Settle(context.Background()))
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
}

// A disk that is full when objects are to be recorded, or a segment is to be sealed, stops nothing for good,
// and the settlings that fail meanwhile don't fill it further.
func TestSettleOnFullDisk(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	must(t, r.s.Close())
	var full atomic.Pointer[string]
	none := ""
	full.Store(&none)
	r.open(func(op vfs.Op) error {
		at := *full.Load()
		if at != "" && (op.Kind == vfs.OpCreate || op.Kind == vfs.OpWrite) && strings.HasSuffix(op.Name, at) &&
			(at != ".seg" || op.Off >= smallestSegment) {
			return unix.ENOSPC
		}
		return nil
	})
	v := r.volume("a", 64<<20)
	want := make([]byte, 4<<20)
	for i, at := range []string{".dir", "refs/log", ".seg"} {
		for o := 0; o < len(want); o += 4096 { // parts of chunks: every one is copied
			part := randomBytes(uint64(i*1000+o/4096+1), 512)
			copy(want[o:], part)
			r.write(v, part, int64(o))
		}
		full.Store(&at)
		var used int64
		for try := range 4 {
			err := r.s.Settle(ctx)
			if at != ".seg" && !errors.Is(err, ErrNoSpace) {
				t.Fatalf("%s full: %v, want no space", at, err)
			}
			if at == ".seg" && err != nil {
				t.Fatalf("sealing on a full disk: %v", err)
			}
			v.settleMu.Lock() // not in the middle of another try
			st, err := r.s.Stat()
			v.settleMu.Unlock()
			must(t, err)
			if try > 0 && st.Used > used+64<<10 { // each of them copies 4 MiB
				t.Fatalf("%s full: try %d uses %d bytes, the one before %d", at, try, st.Used, used)
			}
			used = st.Used
		}
		full.Store(&none)
		v.settleMu.Lock()   // what has failed in the meantime is over
		v.settleMu.Unlock() //nolint:staticcheck // the section is empty: this only waits
		time.Sleep(10 * time.Millisecond)
		must(t, r.s.Settle(ctx))
		wantRead(t, v, 0, want)
	}
	must(t, v.Close())
	must(t, r.s.Close())
	r.open(nil)
	wantRead(t, r.volume("a", 0), 0, want)
}

// One flipped bit in a journal must not silently take what was flushed behind it.
func TestJournalDamageIsNamed(t *testing.T) {
	for _, after := range []string{"kill", "power cut"} {
		r := newRig(t, Options{})
		v := r.volume("a", 16<<20)
		for i := range 4 {
			r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
			must(t, v.Flush())
		}
		name := v.active().journal.Name()
		if after == "kill" {
			r.mem = r.mem.Kill()
		} else {
			r.mem = r.mem.PowerCut(rand.New(rand.NewPCG(1, 2)))
		}
		_ = r.s.Close()
		f, err := r.mem.Open(name)
		must(t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], journal.Offset(0)+9)
		must(t, err)
		b[0] ^= 4
		_, err = f.WriteAt(b[:], journal.Offset(0)+9)
		must(t, err)
		must(t, f.Close())
		if after == "power cut" {
			r.o.Boot = "next boot"
		}
		r.o.FS = r.mem
		r.open(nil)
		_, err = r.s.OpenVolume("a", "test")
		must(t, r.s.Close())
		var c *CorruptError
		if !errors.As(err, &c) || c.File != name || c.Offset != journal.Offset(0) {
			t.Errorf("after a %s: %v, want the damaged record of %s", after, err, name)
		}
	}
}

// A volume can be read where there is no room for its journal, and is written again when there is.
func TestOpenVolumeOnFullDisk(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	want := randomBytes(9, 64<<10)
	r.write(v, want, 0)
	must(t, v.Close())
	must(t, r.s.Close())
	var full atomic.Bool
	full.Store(true)
	r.open(func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpAllocate {
			return unix.ENOSPC
		}
		return nil
	})
	v = r.volume("a", 0)
	wantRead(t, v, 0, want)
	if _, err := v.WriteAt(want, 1<<20); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("write on a full disk: %v, want no space", err)
	}
	must(t, v.Flush())
	must(t, r.s.Settle(context.Background()))
	full.Store(false)
	for try := 0; ; try++ {
		_, err := v.WriteAt(want, 1<<20)
		if err == nil {
			break
		}
		if try == 100 {
			t.Fatalf("write when there is room again: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	wantRead(t, v, 1<<20, want)
}

// A sync fails, and the kernel takes what it should have written for clean. The process dies of it and is
// started again in the same boot: what it then serves must hold across a power cut.
func TestRestartAfterFailedSync(t *testing.T) {
	for _, suffix := range []string{".seg", "journal", "refs/log", ".dir"} {
		r := newRig(t, Options{})
		old, fresh := randomBytes(1, 1<<20), randomBytes(2, 1<<20)
		v := r.volume("a", 16<<20)
		r.write(v, old, 0)
		must(t, v.Flush())
		must(t, v.Close())
		must(t, r.s.Close())
		var armed atomic.Bool
		mem := r.mem
		r.open(func(op vfs.Op) error {
			if armed.Load() && op.Kind == vfs.OpDatasync && (strings.HasSuffix(op.Name, suffix) || strings.HasPrefix(op.Name, suffix)) {
				mem.DropDirty(op.Name)
				return unix.EIO
			}
			return nil
		})
		v = r.volume("a", 0)
		r.write(v, fresh, 0)
		armed.Store(true)
		if suffix == ".seg" || suffix == "journal" {
			if err := v.Flush(); !errors.Is(err, ErrReadOnly) {
				t.Fatalf("%s: flush %v, want read-only", suffix, err)
			}
		} else if err := r.s.Settle(context.Background()); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("%s: settle %v, want read-only", suffix, err)
		}
		r.mem = r.mem.Kill()
		_ = r.s.Close()
		r.open(nil)
		v = r.volume("a", 0)
		got := make([]byte, len(old))
		_, err := v.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, old) && !bytes.Equal(got, fresh) {
			t.Fatalf("%s: neither the old nor the new bytes after the restart", suffix)
		}
		other := randomBytes(3, 4096)
		r.write(v, other, 8<<20)
		must(t, v.Flush())
		must(t, r.s.Settle(context.Background()))
		r.mem = r.mem.PowerCut(rand.New(rand.NewPCG(3, 4)))
		_ = r.s.Close()
		r.o.Boot = "next boot"
		r.open(nil)
		v = r.volume("a", 0)
		wantRead(t, v, 0, got)
		wantRead(t, v, 8<<20, other)
		must(t, r.s.Close())
	}
}

// A sync of recovery fails, each in turn, and the kernel takes what it should have written for clean. What the next
// opening then serves must hold across a power cut.
func TestFailedSyncOfRecovery(t *testing.T) {
	old, fresh := randomBytes(1, 64<<10), randomBytes(2, 64<<10)
	tried := map[string]int{}
	for n, failed := int32(0), true; failed; n++ {
		r := newRig(t, Options{})
		v := r.volume("a", 16<<20)
		must(t, r.s.Quiet()) // nothing settles
		r.write(v, old, 0)
		r.write(v, old, 1<<20)
		must(t, v.Flush())
		r.write(v, fresh, 0)
		_, err := v.freeze()
		must(t, err)
		r.write(v, fresh, 1<<20) // in a generation of its own, and the same segment
		mem := r.mem.Kill()
		_ = r.s.Close()
		var count atomic.Int32
		failed = false
		r.o.FS = vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpDatasync && count.Add(1)-1 == n {
				failed = true
				tried[strings.TrimRight(op.Name[:7], "/")]++
				mem.DropDirty(op.Name)
				return unix.EIO
			}
			return nil
		})
		if s, err := Open(t.Context(), "mem", r.o); err == nil {
			must(t, s.Quiet())
			_ = s.Close()
		}
		r.mem = mem.Kill()
		r.open(nil)
		must(t, r.s.Quiet())
		v = r.volume("a", 0)
		got := make([]byte, 2<<20)
		_, err = v.ReadAt(got, 0)
		must(t, err)
		for _, off := range []int{0, 1 << 20} {
			if b := got[off : off+len(old)]; !bytes.Equal(b, old) && !bytes.Equal(b, fresh) {
				t.Fatalf("sync %d: neither the old nor the new bytes", n)
			}
		}
		must(t, v.Flush())
		must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(3, 4))), "next boot"))
		r.undamaged("a sync of recovery that failed")
		wantRead(t, r.volume("a", 0), 0, got)
	}
	t.Log(tried)
	if tried["segment"] == 0 || tried["journal"] == 0 {
		t.Errorf("not all kinds of files were tried: %v", tried)
	}
}

// A segment that was never made is a file of zeroes, and goes. One whose header has become zeroes is mended; one that
// can't be read is named, and stays: its disk may answer again.
func TestSegmentWithoutHeader(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 64<<20)
	for i := range 12 {
		r.write(v, randomBytes(uint64(i+1), 1<<20), int64(i)<<20)
	}
	must(t, r.s.Settle(ctx))
	must(t, v.Close())
	must(t, r.s.Close())
	sealed := ""
	names, err := r.mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		if n = segment.Dir + "/" + n; strings.HasSuffix(n, ".seg") && !slices.Contains(names, strings.TrimSuffix(filepath.Base(n), ".seg")+".dir") {
			f, err := r.mem.Open(n)
			must(t, err)
			b := fileBytes(t, f)
			if !disk.AllZero(b[segment.HeaderSize:]) {
				sealed = n
			}
			must(t, f.Close())
		}
	}
	if sealed == "" {
		t.Fatalf("no segment is sealed: %v", names)
	}
	unmade, err := r.mem.Create(segment.Name(4000))
	must(t, err)
	must(t, unmade.Truncate(smallestSegment))
	must(t, unmade.Close())
	named := func(mended bool) {
		t.Helper()
		report, err := r.s.Check(ctx, nil)
		must(t, err)
		if !slices.ContainsFunc(report.Damage, func(d Damage) bool { return d.File == sealed && d.Mended == mended }) {
			t.Errorf("check does not name %s: %+v", sealed, report.Damage)
		}
	}
	r.o.FS = vfs.Inject(r.mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && op.Name == sealed {
			return unix.EIO
		}
		return nil
	})
	r.s, err = Open(ctx, "mem", r.o)
	must(t, err)
	named(false)
	must(t, r.s.Close())
	f, err := r.mem.Open(sealed)
	must(t, err)
	_, err = f.WriteAt(make([]byte, segment.HeaderSize), 0)
	must(t, err)
	must(t, f.Close())
	r.o.FS = r.mem
	r.open(nil)
	named(true)
	v = r.volume("a", 64<<20)
	for i := range 12 {
		wantRead(t, v, int64(i)<<20, randomBytes(uint64(i+1), 1<<20))
	}
	if _, err := r.mem.Open(segment.Name(4000)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a segment that was never made: %v, want it gone", err)
	}
}

// A chunk that is lost is an error for those who read it, not for its neighbours, and writing over it mends it.
func TestLostChunk(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	for i := range 8 {
		r.write(v, randomBytes(uint64(i+1), 4096), int64(i)*4096)
	}
	must(t, r.s.Settle(ctx))
	must(t, v.Close())
	must(t, r.s.Close())
	// The record of chunk 3 goes.
	lost := merkle.Sum(merkle.KindChunk, randomBytes(4, 4096))
	names, err := r.mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		f, err := r.mem.Open(segment.Dir + "/" + n)
		must(t, err)
		b := fileBytes(t, f)
		at := bytes.Index(b, lost[:])
		if at < 0 || !strings.HasSuffix(n, ".dir") {
			continue
		}
		// The directory is made anew with another hash in its place.
		must(t, f.Close())
		id, _, _ := segment.ParseName(n)
		var payloads [][]byte
		l, err := record.Open(r.mem, []string{segment.ObjectLogName(id)}, segment.ObjectLogID(r.s.sb.ID, id), false, func(p []byte) error {
			p = bytes.Clone(p)
			if at := bytes.Index(p, lost[:]); at >= 0 {
				p[at] ^= 1
			}
			payloads = append(payloads, p)
			return nil
		})
		must(t, err)
		must(t, l.Close())
		must(t, r.mem.Remove(segment.ObjectLogName(id)))
		l, err = record.Create(r.mem, segment.ObjectLogName(id), segment.ObjectLogID(r.s.sb.ID, id))
		must(t, err)
		for _, p := range payloads {
			must(t, l.Append(p))
		}
		must(t, l.Close())
	}
	r.o.Index = index.NewMem()
	r.open(nil)
	v = r.volume("a", 0)
	got := make([]byte, 4096)
	if _, err := v.ReadAt(got, 3*4096); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a lost chunk: %v", err)
	}
	wantRead(t, v, 4*4096, randomBytes(5, 4096))
	r.write(v, randomBytes(20, 512), 5*4096)
	must(t, r.s.Settle(ctx))
	wantRead(t, v, 4*4096, randomBytes(5, 4096))
	if _, err := v.ReadAt(got, 3*4096); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a lost chunk after a neighbour was written: %v", err)
	}
	r.write(v, randomBytes(21, 4096), 3*4096)
	must(t, r.s.Settle(ctx))
	wantRead(t, v, 3*4096, randomBytes(21, 4096))
}

// The holes of the largest volume are found without walking through them, settled or not.
func TestExtentsOfLargestVolume(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", MaxVolumeSize)
	r.write(v, randomBytes(1, 4096), 1<<40)
	r.write(v, randomBytes(1, 4096), MaxVolumeSize-4096)
	want := []int64{1 << 40, 4096, MaxVolumeSize - 1<<40 - 8192, 4096}
	check := func(what string, im Image) {
		t.Helper()
		var off int64
		for i := 0; off < MaxVolumeSize; i++ {
			hole, n, err := im.Extent(ctx, off)
			must(t, err)
			if i == len(want) || n != want[i] || hole != (i%2 == 0) {
				t.Fatalf("%s: %d bytes at %d, hole: %v; want %v", what, n, off, hole, want)
			}
			off += n
		}
	}
	_, err := r.s.CreateSnapshot(ctx, "a", "s")
	must(t, err)
	view, err := r.s.OpenSnapshot("a", "s")
	must(t, err)
	check("live", v)
	check("snapshot", view)
	must(t, r.s.Settle(ctx))
	check("settled", v)
	check("settled snapshot", view)
	must(t, v.Zero(0, MaxVolumeSize))
	must(t, r.s.Settle(ctx))
	want = []int64{MaxVolumeSize}
	check("discarded", v)
	must(t, view.Close())
}

// Room that a hand-over has kept from being given back is given back when that has failed.
func TestResumeGivesBack(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	for range 3 {
		r.write(v, randomBytes(1, 4<<20), 0)
	}
	var p Plan
	must(t, planLoaded(t.Context(), v, 0, SectorSize, &p)) // a reader, who keeps it from being given back
	gen, err := v.freeze()
	must(t, err)
	must(t, r.s.waitSettled(t.Context(), v.volume, gen))
	for range 3 {
		must(t, r.s.Quiet())
		r.s.Resume()
		for gone := false; !gone; time.Sleep(time.Millisecond) { // it is about to wait for the reader
			_, err := r.mem.Used(journal.Name(v.ref.ID, gen))
			gone = errors.Is(err, os.ErrNotExist)
		}
	}
	v.Release(&p)
	must(t, r.s.waitReclaimed(t.Context(), nil))
	for _, g := range r.s.segments.All() {
		if n := g.Unsettled.Load(); n != 0 && g != v.appendSegment {
			t.Errorf("all has settled, and %d bytes of %s have not", n, segment.Name(g.ID))
		}
	}
}

// A flush that meets the end of its store says so, or was in time: what it has answered is durable.
func TestFlushBesideClose(t *testing.T) {
	for i := range 100 {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		var wg sync.WaitGroup
		var flushed [3]int
		for k := range flushed {
			wg.Go(func() {
				for j := 1; ; j++ {
					_, err := v.WriteAt(randomBytes(uint64(j), SectorSize), int64(k)*SectorSize)
					if err == nil {
						if err = v.Flush(); err == nil {
							flushed[k] = j
						}
					}
					if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, os.ErrClosed) {
						t.Error(err)
					}
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(i%10) * 100 * time.Microsecond)
		must(t, r.s.Close())
		wg.Wait()
		must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(uint64(i), 1))), "next boot"))
		v = r.volume("a", 0)
		for k, n := range flushed {
			got := make([]byte, SectorSize)
			_, err := v.ReadAt(got, int64(k)*SectorSize)
			must(t, err)
			if n > 0 && string(got) != string(randomBytes(uint64(n), SectorSize)) && string(got) != string(randomBytes(uint64(n+1), SectorSize)) {
				t.Fatalf("round %d: writer %d was told that write %d is durable, and it is not there", i, k, n)
			}
		}
	}
}
