package objstore

import (
	"context"
	"errors"
	"slices"
)

// opResize makes a volume larger, while it is open or not, or smaller, when it is closed.
func (w *world) opResize() {
	v := w.anyVolume()
	if v == nil || v.scratch {
		return
	}
	most := []int{1 << 20, 6 << 20}[w.pick(2, "how large")] // a leaf covers 1, 2 or 4 MiB
	size := int64(1+w.pick(most/v.blockSize, "size")) * int64(v.blockSize)
	shrinks := size < v.size
	if vol := w.open[v.name]; vol != nil && shrinks {
		ctx, cancel := ctxTimeout()
		_, err := w.s.ResizeVolume(ctx, v.name, size, ResizeOptions{Shrink: true})
		cancel()
		if !w.mem.WasCut() && !errors.Is(err, ErrInUse) {
			w.failf("a volume that is open was asked to shrink: %v", err)
		}
		delete(w.open, v.name)
		if err := vol.Close(); !w.answered(err, "close volume") {
			return
		}
		v.flushed()
	}
	if shrinks {
		ctx, cancel := ctxTimeout()
		_, err := w.s.ResizeVolume(ctx, v.name, size, ResizeOptions{})
		cancel()
		if !w.mem.WasCut() && !errors.Is(err, ErrInvalid) {
			w.failf("a volume shrinks that was not told to: %v", err)
		}
	}
	v.resizing = size
	var i VolumeInfo
	patience := w.patienceTime() // drawn here: the other goroutine may not
	err := w.underHeldPlans(v, func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		i, err = w.s.ResizeVolume(ctx, v.name, size, ResizeOptions{Shrink: shrinks})
		return err
	})
	w.note("resize %s from %d to %d: %v", v.name, v.size, size, err)
	if shrinks && v.mayReserve(size) && errors.Is(err, ErrInvalid) {
		v.resizing = 0
		return
	}
	if w.gaveUp(err) || !w.answered(err, "resize") {
		if w.mem.WasCut() {
			return
		}
		if now, err := w.s.VolumeInfo(v.name); err != nil || now.Size != v.size {
			w.failf("volume %s was not resized to %d: %+v, %v", v.name, size, now, err)
		}
		if w.space == 0 && w.hook.Load() == nil {
			v.resizing = 0
		}
	} else {
		w.counts["resized"]++
		v.resized()
		if i.Size != size {
			w.failf("%s was resized to %d: %+v", v.name, size, i)
		}
		if want := modelRoot(v.cur, w.chunkSize); shrinks && (i.Root != want || i.Logical != modelLogical(v.cur, w.chunkSize)) {
			w.failf("%s has shrunk to root %s with %d logical bytes, want %s and %d",
				v.name, i.Root, i.Logical, want, modelLogical(v.cur, w.chunkSize))
		}
	}
	if vol := w.volume(v.name); vol != nil {
		defer w.noFaults()()
		w.checkVolume(v, vol, false)
		w.checkSnaps(v)
	}
}

// resized notes a resize that has happened.
func (v *modelVolume) resized() {
	v.resizedState()
	old, n := len(v.cur), int(v.resizing/SectorSize)
	v.size, v.resizing = v.resizing, 0
	if n > old {
		v.cur = append(slices.Clip(v.cur), make([]string, n-old)...)
		return
	}
	v.cur = v.cur[:n:n]
	v.flushed() // all of it has settled
	for i := range v.unsure {
		if i >= n {
			delete(v.unsure, i)
		}
	}
}

// resolveSize finds out what has become of a resize, or of a rollback to a snapshot of another size,
// that was not answered. size is what the volume has.
func (v *modelVolume) resolveSize(size int64) {
	switch r := v.rolling; {
	case size == v.size:
	case size == v.resizing:
		v.resized()
	case r != nil && size == int64(len(r.to))*SectorSize:
		v.size = size // the snapshot that is kept, or the content, tells the rest
		v.cur = slices.Clone(r.to)
	}
	v.resizing = 0
}
