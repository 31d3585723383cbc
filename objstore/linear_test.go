package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/lincheck"
	"varve/objstore/vfs"
)

// deviceDisk uses a volume as blockdev does: whole sectors, by plans and reservations, and takes
// its time between the steps.
type deviceDisk struct {
	v *Volume
	r *lockedRand
}

// lockedRand is for several goroutines.
type lockedRand struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (l *lockedRand) pause() {
	l.mu.Lock()
	n := l.r.IntN(400)
	l.mu.Unlock()
	if n < 40 {
		time.Sleep(time.Duration(n) * 5 * time.Microsecond)
	}
}

func (d deviceDisk) ReadAt(p []byte, off int64) (int, error) {
	var plan Plan
	if err := planLoaded(context.Background(), queueVolume{d.v}, off, len(p), &plan); err != nil {
		return 0, err
	}
	defer queueVolume{d.v}.Release(&plan)
	for i := range plan.Pieces {
		d.r.pause()
		one := Plan{Pieces: plan.Pieces[i : i+1]}
		if err := readPieces(&one, p); err != nil {
			return 0, err
		}
	}
	d.r.pause()
	return len(p), nil
}

func (d deviceDisk) WriteAt(p []byte, off int64) (int, error) {
	var w Write
	if err := d.v.retry(context.Background(), off, int64(len(p)), false, func() error { return queueVolume{d.v}.Reserve(off, len(p), &w) }); err != nil {
		return 0, err
	}
	d.r.pause()
	if err := disk.WriteAligned(w.seg.Data, p, w.FileOff); err != nil {
		d.v.Abort(&w)
		return 0, err
	}
	d.r.pause()
	return len(p), queueVolume{d.v}.Commit(&w)
}

func (d deviceDisk) Zero(off, length int64) error { return d.v.Zero(off, length) }
func (d deviceDisk) Flush() error                 { return queueVolume{d.v}.flush() }

// linearWorld is a store under concurrent clients whose history is checked.
type linearWorld struct {
	t    *testing.T
	seed uint64
	fs   func() vfs.FS
	opts Options
	s    *Store
	v    *Volume
	h    *lincheck.History
	made atomic.Int64 // snapshots

	largest int                               // request in sectors
	spoil   func(lincheck.Disk) lincheck.Disk // breaks what the clients work on
}

// Where the clients work: around the border of two leaves.
const (
	linearSize = 4 << 20
	linearFrom = 1<<20 - 16<<10
	linearTo   = 1<<20 + 16<<10
)

func newLinearWorld(t *testing.T, seed uint64, fs func() vfs.FS, options ...func(*Options)) *linearWorld {
	w := &linearWorld{t: t, seed: seed, fs: fs, h: lincheck.NewHistory(), largest: 24}
	w.opts = Options{
		SegmentSize: smallestSegment, TailSoft: 256 << 10, TailHard: 1 << 20, JournalRecords: journal.MinRecords,
		SettleDelay: time.Millisecond, LeafCache: smallestLeaves, FooterCache: 4096, Reserve: 1 << 20,
		Boot: "boot", Mount: "mount", Index: index.NewMem(),
	}
	for _, o := range options {
		o(&w.opts)
	}
	must(t, initFS(fs(), "linear", InitOptions{ChunkSize: 4096}))
	w.start()
	_, err := w.s.CreateVolume(context.Background(), "v", VolumeOptions{Size: linearSize})
	must(t, err)
	w.open()
	return w
}

func (w *linearWorld) start() {
	o := w.opts
	o.FS = w.fs()
	s, err := Open(context.Background(), "linear", o)
	must(w.t, err)
	w.s = s
}

func (w *linearWorld) open() {
	v, err := w.s.OpenVolume("v", "test")
	must(w.t, err)
	w.v = v
}

// work lets clients loose on the same few sectors, with settling and snapshots beside
// them, until they have done n requests each or stop is closed. excuse judges their errors.
func (w *linearWorld) work(n int, death lincheck.Death, stop <-chan struct{}, excuse func(error) error) {
	s, v := w.s, w.v
	pauses := &lockedRand{r: newRand(w.seed)}
	var clients, helpers sync.WaitGroup
	for i := range 6 {
		r := rand.New(rand.NewPCG(w.seed, uint64(i)))
		work := lincheck.Work{From: linearFrom, To: linearTo, Largest: w.largest, Retry: excuse}
		var d lincheck.Disk = deviceDisk{v, pauses}
		if i%2 == 1 {
			d, work.Ragged = v, w.largest > 1
		}
		if w.spoil != nil {
			d = w.spoil(d)
		}
		c := w.h.Client(d, death)
		clients.Go(func() {
			if err := work.Do(c, r, n, stop); err != nil {
				w.t.Errorf("client %d: %v", i, err)
			}
		})
	}
	quit := make(chan struct{})
	beside := func(f func() error) {
		helpers.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(time.Millisecond):
				}
				err := f()
				if err == nil {
					continue
				}
				if err := excuse(err); !errors.Is(err, lincheck.ErrStop) {
					w.t.Errorf("beside the clients: %v", err)
				}
				return
			}
		})
	}
	beside(func() error {
		ctx, cancel := ctxTimeout()
		defer cancel()
		return s.Settle(ctx)
	})
	beside(func() error { return w.snapshot(s) })
	clients.Wait()
	close(quit)
	helpers.Wait()
}

// snapshot takes one, and reads it twice: it is a read that took effect while it was made.
func (w *linearWorld) snapshot(s *Store) error {
	ctx, cancel := ctxTimeout()
	defer cancel()
	name := fmt.Sprint("s", w.made.Add(1))
	call := w.h.Now()
	if _, err := s.CreateSnapshot(ctx, "v", name); err != nil {
		return err
	}
	ret := w.h.Now()
	view, err := s.OpenSnapshot("v", name)
	if err != nil {
		return err
	}
	p := make([]byte, linearTo-linearFrom)
	if _, err = view.ReadAt(p, linearFrom); err == nil {
		err = w.h.Saw(p, linearFrom, call, ret)
	}
	if err := errors.Join(err, view.Close()); err != nil {
		return err
	}
	return s.DeleteSnapshot(ctx, "v", name)
}

func (w *linearWorld) check() {
	w.t.Helper()
	report, err := w.h.Check(2 * time.Minute)
	w.t.Logf("%+v, %d snapshots", report, w.made.Load())
	w.t.Logf("crash: %d requests that had to be linearizable", report.Requests)
	if err != nil {
		w.t.Error(err)
	}
	if report.Operations < 1000 || w.made.Load() == 0 {
		w.t.Error("hardly anything was done")
	}
}

func (w *linearWorld) close() {
	must(w.t, w.v.Close())
	must(w.t, w.s.Close())
}

func noExcuse(err error) error { return err }

// Concurrent requests by both ways into the engine, with settling, snapshots and freezes, on
// real files. A request of several sectors is atomic for each sector alone: a block device promises
// no more.
func TestLinearizable(t *testing.T) {
	dir := t.TempDir()
	w := newLinearWorld(t, firstSeed(t), func() vfs.FS { return vfs.OS(dir) })
	for range max(1, crashCuts(t, 0)/500) {
		over := watch(t.Name())
		w.h = lincheck.NewHistory()
		must(t, w.v.Zero(linearFrom, linearTo-linearFrom))
		w.work(400, lincheck.Aborted, nil, noExcuse)
		w.check()
		w.seed++
		over()
	}
	w.close()
}

// The same in memory, with kills among the requests: what was answered holds, and what was not may
// have been done before the kill, and not after it.
func TestLinearizableKilled(t *testing.T) {
	over := watch(t.Name())
	mem := vfs.NewMem(1)
	w := newLinearWorld(t, firstSeed(t), func() vfs.FS { return mem })
	for i := range max(6, crashCuts(t, 0)/20) {
		if i%8 == 7 { // a history takes memory by the square of its length, and time by what nobody knows of it
			w.check()
			over()
			over = watch(t.Name())
			w.h = lincheck.NewHistory()
			must(t, w.v.Zero(linearFrom, linearTo-linearFrom))
		}
		w.seed++
		stop, done := make(chan struct{}), make(chan struct{})
		cut := mem
		go func() {
			defer close(done)
			w.work(1<<30, lincheck.Cut, stop, func(err error) error {
				if cut.WasCut() {
					return lincheck.ErrStop
				}
				return err
			})
		}()
		time.Sleep(time.Duration(5+newRand(w.seed).IntN(60)) * time.Millisecond)
		w.h.Kill(func() {
			mem = mem.Kill()
			close(stop)
			_ = w.s.Close() // who waits there for what will never come is let go
			<-done
		})
		w.start()
		w.open()
	}
	w.work(100, lincheck.Cut, nil, noExcuse)
	w.check()
	w.close()
	over()
}

// A snapshot is one moment for all sectors together, and not only for each of them.
func TestSnapshotIsOneMoment(t *testing.T) {
	defer watch(t.Name())()
	mem := vfs.NewMem(1)
	w := newLinearWorld(t, firstSeed(t), func() vfs.FS { return mem })
	w.largest = 1
	w.work(400, lincheck.Aborted, nil, noExcuse)
	report, err := w.h.CheckAs(8*SectorSize, 2*time.Minute)
	t.Logf("%+v, %d snapshots", report, w.made.Load())
	must(t, err)
	if w.made.Load() == 0 {
		t.Error("no snapshot was taken")
	}
	w.close()
}

// staleDisk reads now and then what a sector held some time ago.
type staleDisk struct {
	lincheck.Disk
	n   *atomic.Int64
	old *sync.Map // sector -> its bytes
}

func (d staleDisk) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Disk.ReadAt(p, off)
	if err == nil && off%SectorSize == 0 && len(p) >= SectorSize {
		now := string(p[:SectorSize])
		if was, ok := d.old.Load(off); ok && d.n.Add(1)%30 == 0 {
			copy(p, was.(string))
			return n, nil
		}
		d.old.Store(off, now)
	}
	return n, err
}

// raggedDisk writes parts of sectors as varve once did: it reads the sector and writes it back,
// whatever happens to it in between.
type raggedDisk struct {
	lincheck.Disk
	mu *sync.Mutex
}

func (d raggedDisk) WriteAt(p []byte, off int64) (int, error) {
	from, to := off/SectorSize*SectorSize, disk.RoundUp(off+int64(len(p)), SectorSize)
	if off == from && off+int64(len(p)) == to {
		return d.Disk.WriteAt(p, off)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	whole := make([]byte, to-from)
	if _, err := d.ReadAt(whole, from); err != nil {
		return 0, err
	}
	time.Sleep(50 * time.Microsecond)
	copy(whole[off-from:], p)
	if _, err := d.Disk.WriteAt(whole, from); err != nil {
		return 0, err
	}
	return len(p), nil
}

// forgetfulDisk answers a discard that it has not done.
type forgetfulDisk struct {
	lincheck.Disk
	n *atomic.Int64
}

func (d forgetfulDisk) Zero(off, length int64) error {
	if d.n.Add(1)%20 == 0 {
		return nil
	}
	return d.Disk.Zero(off, length)
}

// The same work finds an engine out that is broken.
func TestLinearizableFindsABrokenEngine(t *testing.T) {
	defer watch(t.Name())()
	var n atomic.Int64
	var old sync.Map
	var mu sync.Mutex
	for name, spoil := range map[string]func(lincheck.Disk) lincheck.Disk{
		"stale reads":            func(d lincheck.Disk) lincheck.Disk { return staleDisk{d, &n, &old} },
		"ragged writes, no lock": func(d lincheck.Disk) lincheck.Disk { return raggedDisk{d, &mu} },
		"forgotten discards":     func(d lincheck.Disk) lincheck.Disk { return forgetfulDisk{d, &n} },
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem(1)
			w := newLinearWorld(t, firstSeed(t), func() vfs.FS { return mem })
			w.spoil = spoil
			w.work(400, lincheck.Aborted, nil, noExcuse)
			w.close()
			if _, err := w.h.Check(time.Minute); !errors.Is(err, lincheck.ErrNotLinearizable) {
				t.Errorf("the checker says %v", err)
			}
		})
	}
}

func unsettled(o *Options) { o.SettleDelay, o.TailSoft, o.TailHard = -1, 1<<30, 2<<30 }

// Whoever overtakes the write of a part of a sector again and again has to wait at last, and
// nothing is undone.
func TestPartialWriteIsNotOvertakenForEver(t *testing.T) {
	mem := vfs.NewMem(0)
	var overtake atomic.Pointer[func()] // a spare segment is made beside the test
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		if f := overtake.Load(); op.Kind == vfs.OpWrite && op.Len == SectorSize && f != nil {
			(*f)()
		}
		return nil
	})
	w := newLinearWorld(t, 1, func() vfs.FS { return fs }, unsettled)
	_, err := w.v.WriteAt(bytes.Repeat([]byte{7}, SectorSize), 4096)
	must(t, err)
	overtaken, refused := 0, 0
	between := func() {
		switch err := w.v.TryZero(4096, SectorSize); {
		case errors.Is(err, ErrBusy):
			refused++
		case err != nil:
			t.Error(err)
		default:
			overtaken++
		}
	}
	overtake.Store(&between)
	_, err = w.v.WriteAt([]byte{1, 2, 3}, 4096+100)
	must(t, err)
	overtake.Store(nil)
	if overtaken != overtakings || refused != 1 {
		t.Errorf("overtaken %d times, then %d had to wait; want %d and 1", overtaken, refused, overtakings)
	}
	got, want := make([]byte, SectorSize), make([]byte, SectorSize)
	copy(want[100:], []byte{1, 2, 3})
	_, err = w.v.ReadAt(got, 4096)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the sector is %x", got)
	}
	must(t, w.v.TryZero(4096, SectorSize)) // nobody waits any more
	w.close()
}

// Of a write that fails nothing counts as written: a caller that is told of a part takes the error
// for a short write.
func TestFailedWriteIsAnError(t *testing.T) {
	mem := vfs.NewMem(0)
	var fail atomic.Int64 // the write that fails, counted from 1
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, ".seg") && op.Off > 0 && fail.Add(-1) == 0 {
			return unix.EIO
		}
		return nil
	})
	w := newLinearWorld(t, 1, func() vfs.FS { return fs }, unsettled)
	for _, c := range []struct{ off, n, fail, want int }{
		{4096, 8192, 1, 0}, {4096 + 100, 200, 1, 0}, {4096 + 100, 4096, 2, SectorSize - 100}, {0, MaxRequest/4 + 512, 2, MaxRequest / 4},
	} {
		fail.Store(int64(c.fail))
		n, err := w.v.WriteAt(make([]byte, c.n), int64(c.off))
		if !errors.Is(err, unix.EIO) || n != c.want {
			t.Errorf("%d bytes at %d: %d, %v; want %d and an error", c.n, c.off, n, err, c.want)
		}
	}
	w.close()
}
