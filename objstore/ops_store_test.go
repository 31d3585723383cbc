package objstore

import (
	"context"
	"slices"
	"sync/atomic"
	"syscall"

	"varve/objstore/vfs"
)

// The operations of a world that are on the store as a whole, or on what lies around its volumes.

// opScratch makes a scratch volume over a snapshot. From then on it is a volume like any other.
func (w *world) opScratch() {
	v, name := w.anySnap()
	if v == nil || v.scratch || len(w.vols) >= 5 {
		return
	}
	content := v.snaps[name].content
	w.unknownScratch = append(w.unknownScratch, content)
	ctx, cancel := ctxTimeout()
	defer cancel()
	i, err := w.s.CreateScratch(ctx, v.name, name)
	w.note("scratch volume over %s@%s: %s %v", v.name, name, i.Name, err)
	if !w.answered(err, "create a scratch volume") {
		return
	}
	w.unknownScratch = w.unknownScratch[:len(w.unknownScratch)-1]
	n := newModelVolume(i.Name, int64(len(content))*SectorSize, v.blockSize)
	n.scratch = true
	copy(n.cur, content)
	w.vols[i.Name] = n
	vol := w.volume(i.Name)
	if vol == nil {
		return
	}
	defer w.noFaults()()
	w.checkVolume(n, vol, false)
}

// checkScratch takes away what a request for a scratch volume that was not answered has left:
// nothing, or a whole one.
func (w *world) checkScratch() {
	for _, i := range w.s.ScratchVolumes() {
		if w.vols[i.Name] != nil {
			continue
		}
		v, err := w.s.OpenVolume(i.Name, "test")
		if !w.answered(err, "open a scratch volume") {
			return
		}
		got := make([]byte, i.Size)
		_, err = v.ReadAt(got, 0)
		if !w.answered(err, "read a scratch volume") {
			return
		}
		if !slices.ContainsFunc(w.unknownScratch, func(content []string) bool { return sameSectors(got, content) }) {
			w.failf("scratch volume %s of %s is there, and holds what no snapshot held that one was to be made of", i.Name, i.Of)
		}
		if !w.answered(v.Close(), "close a scratch volume") ||
			!w.answered(w.s.DeleteVolume(context.Background(), i.Name), "delete a scratch volume") {
			return
		}
	}
}

func sameSectors(b []byte, content []string) bool {
	if len(b) != len(content)*SectorSize {
		return false
	}
	for i, s := range content {
		if sectorOf(b[i*SectorSize:(i+1)*SectorSize]) != s {
			return false
		}
	}
	return true
}

// opVerify has a volume's chunks checked as they are read, or no longer.
func (w *world) opVerify() {
	v := w.anyVolume()
	if v == nil {
		return
	}
	on := w.pick(2, "verify") == 0
	i, err := w.s.SetVerify(context.Background(), v.name, on)
	w.note("verify %s %v: %v", v.name, on, err)
	if w.answered(err, "set verify") && i.Verify != on {
		w.failf("verify of %s is %v, was set to %v", v.name, i.Verify, on)
	}
}

// opLimits has a volume take writes, discards and settlings under a quota, above which it does not
// grow, and a reservation.
func (w *world) opLimits() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	used := func() int64 {
		vol.mu.Lock()
		defer vol.mu.Unlock()
		return vol.used()
	}
	before := used()
	quota := int64(w.pick(int(v.size), "quota")) + 1
	reserve := min(int64(w.pick(2, "reserve"))*(1<<18), quota)
	err := w.setLimits(v, Limits{quota, reserve})
	w.note("%s uses %d", v.name, before)
	for range w.pick(6, "operations") {
		if w.mem.WasCut() {
			return
		}
		w.oneOf([]operation{{"write", 4, (*world).opWrite}, {"reserve", 2, (*world).opReserve}, {"zero", 1, (*world).opZero}, {"settle", 1, (*world).opSettle}})
	}
	if w.mem.WasCut() || w.open[v.name] != vol {
		return
	}
	if after := used(); err == nil && after > max(before, quota) {
		w.failf("%s has %d bytes after writing with a quota of %d, and had %d", v.name, after, quota, before)
	}
	_ = w.setLimits(v, Limits{}) // after an error the volume keeps them
}

// setLimits sets a volume's limits, and notes what came of it.
func (w *world) setLimits(v *modelVolume, l Limits) error {
	v.limiting = append(v.limiting, l)
	i, err := w.s.SetLimits(context.Background(), v.name, &l.Quota, &l.Reserve)
	w.note("limits of %s: quota %d, reservation %d: %v", v.name, l.Quota, l.Reserve, err)
	if w.answered(err, "set limits") {
		v.limits, v.limiting = l, nil
		w.resolveLimits(v, Limits{i.Quota, i.Reserve})
	}
	return err
}

// resolveLimits finds out what has become of limits whose setting was not answered. l is what the
// volume has.
func (w *world) resolveLimits(v *modelVolume, l Limits) {
	if l != v.limits && !slices.Contains(v.limiting, l) {
		w.failf("volume %s has the limits %+v, want %+v, or one of %+v unanswered", v.name, l, v.limits, v.limiting)
	}
	v.limits, v.limiting = l, nil
}

// limited reports whether the volume has limits, or may have.
func (v *modelVolume) limited() bool { return v.limits != (Limits{}) || len(v.limiting) > 0 }

// mayReserve reports whether the volume may have a reservation of more than n bytes.
func (v *modelVolume) mayReserve(n int64) bool {
	return v.limits.Reserve > n || slices.ContainsFunc(v.limiting, func(l Limits) bool { return l.Reserve > n })
}

// opQuiesce is the beginning of a hand-over: the store is closed after it, or goes on.
func (w *world) opQuiesce() {
	err := w.s.Quiesce()
	w.note("quiesce: %v", err)
	if w.answered(err, "quiesce") {
		for _, v := range w.vols {
			v.flushed()
		}
	}
	w.opRead()
	w.opFlush()
	if w.pick(2, "resume") == 0 || w.mem.WasCut() {
		w.s.Resume()
		return
	}
	w.reopen()
}

// opPassing lets the machine have no descriptors or no memory for a while. Nothing becomes
// read-only by that.
func (w *world) opPassing() {
	if w.hook.Load() != nil {
		return
	}
	errno, hit := syscall.EMFILE, takesDescriptor
	if w.pick(2, "memory") == 0 {
		errno, hit = syscall.ENOMEM, func(k vfs.Kind) bool { return k != vfs.OpDatasync && k != vfs.OpSyncDir }
	}
	first, fails := int64(w.pick(12, "first that fails")), int64(1+w.pick(30, "how many fail"))
	var count atomic.Int64
	w.setHook(func(op vfs.Op) error {
		if !hit(op.Kind) {
			return nil
		}
		if n := count.Add(1) - 1; n < first || n >= first+fails {
			return nil
		}
		return errno
	})
	for range 1 + w.pick(4, "steps") {
		if w.step(); w.s == nil || w.mem.WasCut() {
			break
		}
	}
	w.setHook(nil)
	w.note("%v, %d times from the %dth on of %d", errno, fails, first, count.Load())
	if w.s == nil && !w.mem.WasCut() {
		if err := w.start(); err != nil && !w.mem.WasCut() {
			w.failf("open: %v", err)
		}
	}
	if w.mem.WasCut() {
		return
	}
	if err := w.s.writeError(); err != nil && !w.mem.WasCut() {
		w.failf("%v has made the store read-only: %v", errno, err)
	}
	for _, name := range sortedKeys(w.vols) { // what a request has done that failed is known from here on
		if v := w.vols[name]; !v.maybeGone {
			if vol := w.volume(name); vol != nil {
				w.checkVolume(v, vol, false)
			}
		}
	}
}

// heldOn is a plan that is held over several operations.
type heldOn struct {
	*heldPlan
	v  *modelVolume
	im Image
}

// opHold makes a plan that is read some operations later.
func (w *world) opHold() {
	v := w.anyVolume()
	if v == nil || len(w.held) > 4 {
		return
	}
	vol := w.volume(v.name)
	if vol == nil {
		return
	}
	if h := w.holdPlan(v, vol.volume); h != nil {
		w.held = append(w.held, heldOn{h, v, vol.volume})
		w.note("plan of %s at %d is held", v.name, h.off)
	}
}

// readAllHeld ends what opHold has begun: before what waits for readers, and before the store
// closes.
func (w *world) readAllHeld() {
	held := w.held
	w.held = nil
	for _, h := range held {
		w.readHeld(h.v, h.im, h.heldPlan)
	}
}

// underPlans are the operations that go on while plans are held.
var underPlans = []string{"write", "reserve", "zero", "flush", "read", "extents", "snapshot", "create", "close", "verify", "hold", "delete snapshot", "collect along", "settle one"}
