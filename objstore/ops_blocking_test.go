package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// givesUp runs a call whose context ends at a random moment, and reports whether the call was
// answered.
func (w *world) givesUp(what string, call func(ctx context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(w.pick(3000, "microseconds"))*time.Microsecond)
	defer cancel()
	began := time.Now()
	err := call(ctx)
	w.note("%s, given up after %v: %v", what, time.Since(began), err)
	if errors.Is(err, context.DeadlineExceeded) && !w.mem.WasCut() {
		return false
	}
	return w.answered(err, what)
}

// opGiveUp has the caller of a blocking call give up: it is done, or will be, or is not, and
// nothing else comes of it.
func (w *world) opGiveUp() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	switch w.pick(7, "call") {
	case 0:
		w.givesUp("settle", w.s.Settle)
	case 1:
		w.giveUpSnapshot(v)
	case 2:
		if v, name := w.anySnap(); v != nil {
			w.givesUp("wait", func(ctx context.Context) error { _, err := w.s.WaitSnapshot(ctx, v.name, name); return err })
		}
	case 3:
		if v, name := w.anySnap(); v != nil {
			v.snaps[name].maybeGone = true
			if w.givesUp("delete snapshot", func(ctx context.Context) error { return w.s.DeleteSnapshot(ctx, v.name, name) }) {
				delete(v.snaps, name)
			}
		}
	case 4:
		w.givesUp("check", func(ctx context.Context) error { _, err := w.s.Check(ctx, nil); return err })
	case 5:
		w.givesUp("load", func(ctx context.Context) error { return vol.Load(ctx, 0, int(min(v.size, MaxRequest))) })
		w.givesUp("wait for room", func(ctx context.Context) error { return vol.Wait(ctx, 0, SectorSize, w.pick(2, "hole") == 0) })
	case 6:
		w.giveUpDelete(v, vol)
	}
}

func (w *world) giveUpSnapshot(v *modelVolume) {
	if len(v.snaps) > 6 || v.scratch || len(v.unsure) > 0 {
		return
	}
	w.names++
	name := fmt.Sprintf("s%d", w.names)
	sn := &modelSnap{content: append([]string(nil), v.cur...), maybeGone: true}
	v.snaps[name] = sn
	if w.givesUp("snapshot", func(ctx context.Context) error { _, err := w.s.CreateSnapshot(ctx, v.name, name); return err }) {
		sn.maybeGone = false
		v.flushed()
	}
}

func (w *world) giveUpDelete(v *modelVolume, vol *Volume) {
	if len(v.snaps) > 0 || v.scratch {
		return
	}
	w.readAllHeld()
	delete(w.open, v.name)
	if err := vol.Close(); !w.answered(err, "close volume") {
		return
	}
	v.flushed()
	v.maybeGone = true
	if w.givesUp("delete", func(ctx context.Context) error { return w.s.DeleteVolume(ctx, v.name) }) {
		delete(w.vols, v.name)
	} else if _, err := w.s.VolumeInfo(v.name); err == nil && !w.mem.WasCut() && !w.refsInDoubt() {
		v.maybeGone = false
	}
}

// opSlowSyncs has writers at work on two volumes, with snapshots, flushes and settling, while syncs
// take their time.
func (w *world) opSlowSyncs() {
	type half struct {
		v       *modelVolume
		vol     *Volume
		work    []*writerWork
		allowed map[int][]string
		snap    string
		snapErr error
		readErr error
	}
	var halves []*half
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		if v.maybeGone || len(v.cur) < 64 || len(v.unsure) > 0 || len(halves) == 2 {
			continue
		}
		vol := w.volume(name)
		if vol == nil {
			return
		}
		h := &half{v: v, vol: vol, work: w.planWriters(v, 2)}
		h.allowed = possible(v, h.work)
		if len(v.snaps) < 6 && !v.scratch && w.pick(2, "snapshot") == 0 {
			w.names++
			h.snap = fmt.Sprintf("s%d", w.names)
		}
		halves = append(halves, h)
	}
	w.slowSyncs.Store(int64(time.Duration(1+w.pick(3000, "microseconds")) * time.Microsecond))
	var wg sync.WaitGroup
	var settleErr error
	for _, h := range halves {
		for _, ww := range h.work {
			wg.Go(func() { ww.run(h.vol) })
		}
		if h.snap != "" {
			wg.Go(func() {
				time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
				_, h.snapErr = w.s.CreateSnapshot(context.Background(), h.v.name, h.snap)
			})
		}
		wg.Go(func() { h.readErr = readUnder(h.vol, len(h.v.cur), h.allowed) })
	}
	if w.pick(2, "settle") == 0 {
		wg.Go(func() {
			ctx, cancel := ctxTimeout()
			defer cancel()
			settleErr = w.s.Settle(ctx)
		})
	}
	wg.Wait()
	w.slowSyncs.Store(0)
	w.note("slow syncs under %d volumes, settle: %v", len(halves), settleErr)
	if settleErr != nil && !w.tolerates(settleErr) {
		w.failf("settle under slow syncs: %v", settleErr)
	}
	for _, h := range halves {
		if h.readErr != nil && !w.tolerates(h.readErr) {
			w.failf("read of %s under slow syncs: %v", h.v.name, h.readErr)
		}
		w.takeOver(h.v, h.vol, h.work)
		if h.snap != "" {
			w.tookSnapshot(h.v, h.snap, h.snapErr, h.allowed)
		}
	}
}

// opBreakIndex breaks the index. It is made anew beside what comes next.
func (w *world) opBreakIndex() {
	w.note("the index breaks")
	w.breaks.broken.Store(true)
}
