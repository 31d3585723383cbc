package objstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// writerWork is what one of several writers at work at once does to its own part of a volume.
type writerWork struct {
	first, n int // its sectors
	writes   []writerWrite
	flush    bool
	flushed  bool
}

type writerWrite struct {
	first   int
	sectors []string
	data    []byte
	err     error
}

// opConcurrent has writers, readers, settling and a snapshot at work on one volume at once.
func (w *world) opConcurrent() {
	v := w.anyVolume()
	if v == nil || len(v.cur) < 64 || len(v.unsure) > 0 {
		return
	}
	vol := w.volume(v.name)
	if vol == nil {
		return
	}
	work := w.planWriters(v, 2+w.pick(3, "writers"))
	w.names++
	snap := fmt.Sprintf("s%d", w.names)
	withSnap := w.pick(2, "snapshot") == 0 && len(v.snaps) < 6 && !v.scratch
	allowed := possible(v, work)
	var wg sync.WaitGroup
	for _, ww := range work {
		wg.Go(func() { ww.run(vol) })
	}
	var snapErr, settleErr, readErr error
	if withSnap {
		wg.Go(func() { _, snapErr = w.s.CreateSnapshot(context.Background(), v.name, snap) })
	}
	if w.pick(2, "settle") == 0 {
		wg.Go(func() {
			ctx, cancel := ctxTimeout()
			defer cancel()
			settleErr = w.s.Settle(ctx)
		})
	}
	var collectErr error
	if w.pick(2, "collect") == 0 {
		wg.Go(func() { _, collectErr = w.s.Collect(context.Background(), CollectOptions{}) })
	}
	wg.Go(func() { readErr = readUnder(vol, len(v.cur), allowed) })
	wg.Wait()
	w.note("%d writers on %s, snapshot %s: %v, settle: %v, read: %v", len(work), v.name, snap, snapErr, settleErr, readErr)
	if readErr != nil && !w.tolerates(readErr) {
		w.failf("read under writers: %v", readErr)
	}
	if collectErr != nil && !w.tolerates(collectErr) {
		w.failf("collect under writers: %v", collectErr)
	}
	if settleErr != nil && !w.tolerates(settleErr) {
		w.failf("settle under writers: %v", settleErr)
	}
	w.takeOver(v, vol, work)
	if withSnap {
		w.tookSnapshot(v, snap, snapErr, allowed)
	}
}

// planWriters gives each writer a part of the volume and what it writes there.
func (w *world) planWriters(v *modelVolume, n int) []*writerWork {
	part := len(v.cur) / n
	var work []*writerWork
	for i := range n {
		ww := &writerWork{first: i * part, n: part, flush: w.pick(2, "flush") == 0}
		for range 1 + w.pick(4, "writes") {
			at := w.pick(part, "sector")
			count := 1 + w.pick(min(part-at, 200), "sectors")
			off := int64(ww.first+at) * SectorSize
			data := w.data(off, count*SectorSize)
			first, sectors := v.overlay(off, data)
			ww.writes = append(ww.writes, writerWrite{first: first, sectors: sectors, data: data})
		}
		work = append(work, ww)
	}
	return work
}

func (ww *writerWork) run(vol *Volume) {
	for i := range ww.writes {
		wr := &ww.writes[i]
		_, wr.err = vol.WriteAt(wr.data, int64(wr.first)*SectorSize)
	}
	if ww.flush {
		ww.flushed = queueVolume{vol}.flush() == nil
	}
}

// possible gives what each sector may hold while the writers are at work.
func possible(v *modelVolume, work []*writerWork) map[int][]string {
	out := map[int][]string{}
	for _, ww := range work {
		for _, wr := range ww.writes {
			for i, s := range wr.sectors {
				addValue(out, wr.first+i, s)
			}
		}
	}
	for i := range v.cur {
		addValue(out, i, v.cur[i])
		for _, s := range v.unsure[i] {
			addValue(out, i, s)
		}
	}
	return out
}

// readUnder reads the volume a few times while it changes.
func readUnder(vol *Volume, sectors int, allowed map[int][]string) error {
	buf := make([]byte, sectors*SectorSize)
	for range 3 {
		if _, err := vol.ReadAt(buf, 0); err != nil {
			return err
		}
		for i := range sectors {
			if s := sectorOf(buf[i*SectorSize : (i+1)*SectorSize]); !slices.Contains(allowed[i], s) {
				panic(fmt.Sprintf("sector %d holds %s under writers, want one of %s", i, short(s), shorts(allowed[i])))
			}
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// takeOver notes in the model how the writers fared.
func (w *world) takeOver(v *modelVolume, vol *Volume, work []*writerWork) {
	cut := w.mem.WasCut()
	for _, ww := range work {
		for _, wr := range ww.writes {
			if wr.err == nil && !cut {
				v.set(wr.first, wr.sectors)
				continue
			}
			if wr.err != nil && !w.tolerates(wr.err) {
				w.failf("concurrent write: %v", wr.err)
			}
			v.maybe(wr.first, wr.sectors)
		}
		if !cut {
			w.readBack(v, vol, ww.first, ww.n)
		}
		if ww.flushed && !cut {
			for i := ww.first; i < ww.first+ww.n; i++ {
				delete(v.alts, i)
			}
		}
	}
}

// tookSnapshot finds out which of the concurrent writes a snapshot holds; from then on it stays so.
func (w *world) tookSnapshot(v *modelVolume, snap string, err error, allowed map[int][]string) {
	if !w.answered(err, "concurrent snapshot") {
		v.lost = append(v.lost, snap)
		return
	}
	view, err := w.s.OpenSnapshot(v.name, snap)
	if !w.answered(err, "open concurrent snapshot") {
		v.lost = append(v.lost, snap)
		return
	}
	defer w.noFaults()()
	got := make([]byte, v.size)
	if _, err := view.ReadAt(got, 0); !w.answered(err, "read concurrent snapshot") {
		v.lost = append(v.lost, snap)
		return
	}
	sn := &modelSnap{}
	for i := range v.cur {
		s := sectorOf(got[i*SectorSize : (i+1)*SectorSize])
		if !slices.Contains(allowed[i], s) {
			w.failf("snapshot %s sector %d holds %s, want one of %s", snap, i, short(s), shorts(allowed[i]))
		}
		sn.content = append(sn.content, s)
	}
	v.snaps[snap] = sn
	if err := view.Close(); err != nil {
		w.failf("close view: %v", err)
	}
}
