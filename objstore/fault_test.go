package objstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/journal"
	"varve/objstore/vfs"
)

// fault lets one operation fail.
type fault struct {
	err   error
	drop  bool // a failed sync loses what it should have written, as Linux has it
	short bool // a failed write has written its first half
}

var faults = map[string]fault{
	"EIO":           {err: syscall.EIO},
	"EIO and lost":  {err: syscall.EIO, drop: true},
	"short and EIO": {err: syscall.EIO, short: true},
	"ENOSPC":        {err: syscall.ENOSPC, short: true},
}

// failsFlush says whether the failure of op is one of a flush: the next opening may go back to what
// was flushed before.
func failsFlush(op vfs.Op) bool {
	return op.Kind == vfs.OpDatasync || op.Kind == vfs.OpSyncDir && op.Name == journal.Dir
}

// failing gives a hook that lets operation n of those that want picks fail, and says what that was.
func (w *world) failing(n int, f fault, want func(vfs.Op) bool) (hook func(vfs.Op) error, met func() string) {
	var mu sync.Mutex
	count, what := 0, ""
	mem := w.mem
	hook = func(op vfs.Op) error {
		if !want(op) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if count++; count-1 != n {
			return nil
		}
		what = fmt.Sprintf("%v %s %d+%d", op.Kind, op.Name, op.Off, op.Len)
		if failsFlush(op) {
			w.unsynced = true
		}
		if f.drop && op.Kind == vfs.OpDatasync {
			mem.DropDirty(op.Name)
		}
		if f.short && op.Kind == vfs.OpWrite {
			return &vfs.ShortError{N: int(op.Len/2) / SectorSize * SectorSize, Err: f.err}
		}
		return f.err
	}
	return hook, func() string { mu.Lock(); defer mu.Unlock(); return what }
}

// Every operation of the fixed workload fails once, in every way. Whatever was answered holds after
// a crash, and the store works again when it is opened again.
func TestEveryFault(t *testing.T) {
	stride := 6
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			tried, start := map[string]int{}, time.Now()
			for n := 0; ; n += stride {
				w := fixedWorld(t, uint64(n))
				w.init()
				hook, met := w.failing(n, f, func(op vfs.Op) bool {
					switch {
					case f.drop:
						return op.Kind == vfs.OpDatasync
					case errors.Is(f.err, syscall.ENOSPC):
						return op.Kind == vfs.OpWrite || op.Kind == vfs.OpAllocate || op.Kind == vfs.OpCreate
					case f.short:
						return op.Kind == vfs.OpWrite
					}
					return true
				})
				w.setHook(hook)
				fixedWorkload(w)
				w.setHook(nil)
				what := met()
				w.note("failed: operation %d, %s", n, what)
				w.crash(n/stride%crashKinds, false)
				if w.opSettle(); f.drop {
					w.crash(powerCut, false)
				}
				w.reopen()
				w.must(w.stop())
				if what == "" {
					break
				}
				tried[strings.Fields(what)[0]]++
			}
			t.Logf("%v in %v", tried, time.Since(start))
			sum := 0
			for _, n := range tried {
				sum += n
			}
			t.Logf("crash: %d injected faults", sum)
			if len(tried) == 0 {
				t.Fatal("nothing failed")
			}
		})
	}
}

// countFS counts the files that are open.
type countFS struct {
	vfs.FS
	mu   sync.Mutex
	open map[*countFile]string
}

type countFile struct {
	vfs.File
	fs *countFS
}

func (c *countFS) file(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cf := &countFile{f, c}
	c.open[cf] = name
	return cf, nil
}

func (c *countFS) Open(name string) (vfs.File, error) {
	f, err := c.FS.Open(name)
	return c.file(f, name, err)
}

func (c *countFS) Create(name string) (vfs.File, error) {
	f, err := c.FS.Create(name)
	return c.file(f, name, err)
}

func (f *countFile) Close() error {
	f.fs.mu.Lock()
	delete(f.fs.open, f)
	f.fs.mu.Unlock()
	return f.File.Close()
}

// An opening that fails, at any operation, leaves no file open: the daemon that hands over may try
// again.
func TestFailedOpeningClosesFiles(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	for i := range 3 {
		r.write(v, randomBytes(uint64(i), 3<<20), 0)
	}
	must(t, r.s.Settle(t.Context()))
	must(t, r.s.Quiesce())
	r.write(v, randomBytes(9, 8192), 0)
	_, err := v.freeze()
	must(t, err)
	r.write(v, randomBytes(9, 8192), 0)
	r.s.catalog.log.CompactAt = 1 << 40
	must(t, r.s.catalog.append(context.Background(), padded(2<<20)))
	var failed atomic.Bool
	failed.Store(true)
	for n := int32(0); failed.Load(); n++ {
		c := &countFS{FS: r.mem.Kill(), open: map[*countFile]string{}}
		var count atomic.Int32
		o := r.o
		o.Index = index.NewMem()
		failed.Store(false)
		o.FS = vfs.Inject(c, func(op vfs.Op) error {
			if count.Add(1)-1 != n {
				return nil
			}
			failed.Store(true)
			return syscall.EIO
		})
		s, err := Open(t.Context(), "mem", o)
		if err == nil {
			_ = s.Close()
		}
		for _, name := range c.open {
			t.Errorf("operation %d: %s stays open after %v", n, name, err)
		}
	}
}

// Random histories in which now and then an operation fails, with crashes.
func TestFaultLong(t *testing.T) {
	want, total := crashCuts(t, 40), map[string]int{}
	for seed := firstSeed(t); total["faults"] < want; seed++ {
		ok := t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			w := newWorld(t, seed, nil)
			w.init()
			w.opCreate()
			w.opCreate()
			for range 20 {
				f := faults[sortedKeys(faults)[w.pick(len(faults), "fault")]]
				kind := vfs.Kind(w.pick(int(vfs.OpMap)+1, "kind"))
				if f.drop {
					kind = vfs.OpDatasync
				}
				hook, met := w.failing(w.pick(8, "number"), f, func(op vfs.Op) bool { return op.Kind == kind })
				w.setHook(hook)
				for range 8 {
					if w.step(); w.s == nil || w.mem.WasCut() {
						break
					}
				}
				w.setHook(nil)
				if what := met(); what != "" {
					w.note("failed: %s", what)
					w.counts["faults"]++
				}
				if w.s.writeError() != nil || w.pick(2, "crash") == 0 {
					w.crash(w.pick(crashKinds, "kind of crash"), false)
				}
			}
			w.opSettle()
			w.must(w.stop())
			for k, n := range w.counts {
				total[k] += n
			}
		})
		if !ok {
			break
		}
	}
	t.Logf("%v", total)
	t.Logf("crash: %d injected faults", total["faults"])
}

// A disk that fills up, and a maximum of the store, which both move up and down, below what is used
// too: writes are refused, nothing is lost, what deletes and settles goes on, and when there is
// room again so do writes.
func TestFullLong(t *testing.T) {
	want, total := crashCuts(t, 40), map[string]int{}
	for seed := firstSeed(t); total["crashes"] < want; seed++ {
		ok := t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			w := newWorld(t, seed, nil)
			w.opts.Reserve = 8 << 20
			w.space = int64(12+w.pick(16, "space")) << 20
			w.mem.SetSpace(w.space)
			w.init()
			w.opCreate()
			w.opCreate()
			for range 120 {
				switch w.pick(24, "before the step") {
				case 0:
					w.mem.CutAt(w.mem.Ops() + int64(w.pick(60, "crash at")))
				case 1:
					w.moveSpace()
				case 2:
					w.moveMaxSize()
				}
				before := w.used()
				if w.pick(3, "others fill the disk") == 0 {
					w.oneOf(fullOperations)
				} else {
					w.step()
				}
				if w.mem.WasCut() {
					w.crash(w.pick(crashKinds, "kind of crash"), true)
					total["crashes"]++
				}
				w.checkFull(before)
			}
			if w.mem.CutAt(-1); w.mem.WasCut() {
				w.crash(kill, true)
			}
			w.readAllHeld()
			if w.pick(2, "delete or go on") == 0 {
				w.deleteAll()
			} else {
				w.freeSpace()
			}
			w.must(w.stop())
			for k, n := range w.counts {
				total[k] += n
			}
		})
		if !ok {
			break
		}
	}
	t.Logf("%v", total)
	t.Logf("crash: %d crashes on small disks", total["crashes"])
	for _, k := range []string{
		"steps on a full disk", "steps above the maximum", "writes after space was freed", "collections on a full disk", "bytes freed on a full disk",
	} {
		if total[k] == 0 {
			t.Errorf("no %s", k)
		}
	}
}

// moveSpace has others take or give back room of the file system, to the last byte or beyond.
func (w *world) moveSpace() {
	w.space = int64(2+w.pick(40, "space")) << 20
	w.note("the file system has %d bytes now", w.space)
	w.mem.SetSpace(w.space)
	w.counts["moves of the space"]++
}

// moveMaxSize bounds the store, or frees it.
func (w *world) moveMaxSize() {
	size := int64(0)
	if w.pick(4, "no maximum") > 0 {
		size = int64(4+w.pick(36, "maximum")) << 20
	}
	if used := w.used(); w.pick(4, "below what is used") == 0 {
		size = max(used-int64(w.pick(8, "by"))<<20, 4<<20)
	}
	err := w.s.setMaxSize(context.Background(), size)
	w.note("a maximum of %d: %v", size, err)
	if w.answered(err, "set maximum size") {
		w.counts["moves of the maximum"]++
	}
}

// used is what the store takes, or 0 while it is cut off.
func (w *world) used() int64 {
	n, err := w.s.usage.total()
	if err != nil && !w.mem.WasCut() {
		w.failf("what is used: %v", err)
	}
	return n
}

// checkFull looks at the bounds after a step that began with so many bytes used.
func (w *world) checkFull(before int64) {
	if err := w.s.writeError(); err != nil {
		w.failf("a full disk has made the store read-only: %v", err)
	}
	if room, err := w.s.space.room(); err == nil && room < 1<<20 {
		w.counts["steps on a full disk"]++
	}
	limit, used := w.s.space.maxSize.Load(), w.used()
	if limit == 0 || w.mem.WasCut() {
		return
	}
	if before > limit {
		w.counts["steps above the maximum"]++
	}
	// With the reserve whole, a step stays below the maximum. A maximum that was set below that
	// leaves settling less.
	bound := limit
	if before+w.opts.Reserve > limit {
		// Opening makes a journal for each volume, whatever the maximum is.
		bound = max(limit, before) + max(w.opts.Reserve/2, int64(len(w.vols))*(journal.WindowSize+2*journal.Offset(0))+1<<20)
	}
	if used > bound {
		w.failf("the store takes %d bytes, its maximum is %d, and before the step it took %d", used, limit, before)
	}
}

// freeSpace gives the store all room there is: without a new opening, each volume takes a write and
// settles.
func (w *world) freeSpace() {
	defer watch("write after space was freed")()
	w.space = 0
	w.mem.SetSpace(w.spaceOrPlenty())
	w.must(w.s.setMaxSize(context.Background(), 0))
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		if v.maybeGone {
			continue
		}
		if v.limited() { // there was no room for the record that would have taken the quota away
			w.must(w.setLimits(v, Limits{}))
		}
		vol := w.volume(name)
		data := w.random(int(v.size) / 8 * 8)
		var err error
		for range 6000 { // a volume that found no room for its journal gets it at a tick of the settler
			if _, err = vol.WriteAt(data, 0); !errors.Is(err, ErrNoSpace) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.must(err)
		first, sectors := v.overlay(0, data)
		v.set(first, sectors)
		w.counts["writes after space was freed"]++
	}
	w.opSettle()
	w.reopen()
}

// deleteAll empties the store, which must always work.
func (w *world) deleteAll() {
	defer watch("delete all")()
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		if vol := w.open[name]; vol != nil {
			w.must(vol.Close())
			delete(w.open, name)
		}
		for _, sn := range sortedKeys(v.snaps) {
			err := w.s.DeleteSnapshot(w.t.Context(), name, sn)
			if gone := v.snaps[sn].maybeGone && errors.Is(err, ErrNotFound); err != nil && !gone {
				w.failf("delete snapshot %s@%s: %v", name, sn, err)
			}
		}
		err := w.s.DeleteVolume(w.t.Context(), name)
		if gone := v.maybeGone && errors.Is(err, ErrNotFound); err != nil && !gone {
			w.failf("delete volume %s: %v", name, err)
		}
	}
	clear(w.vols)
}
