package objstore

import (
	"context"
	"fmt"
	"slices"
)

// Limits are how much of the store a volume may take, and how much of it is kept for the volume.
// Both are in bytes of data that the volume refers to, in whole chunks and without deduplication:
// what it shares with others counts in full, and what only its snapshots have does not.
type Limits struct {
	Quota   int64 // 0: none
	Reserve int64 // 0: none
}

// limits are a volume's Limits, and what of them is used. Used is
//
//	baseData            data of the settled state
//	+ growth of layers  what their writes may have added to that, at most: the chunks that they touch
//	+ pending           the same of writes that are reserved and not committed
//
// A write is charged for the chunks that it touches, as if each were new. Where that is more than the
// quota leaves, a look at the map (growth) finds out which of them are, so that what is there can be
// overwritten although nothing is left; and where that is too much, the volume settles, after which
// its base says exactly what it has. A write that the quota refuses has had both. Discards are never
// refused.
//
// A promise is what of the reservation is not used: room that the space account keeps from others.
// The volume's own writes are admitted against it when nothing else is left. Its sum over all volumes
// is spaceAccount.promised.
//
// Guarded by volume.mu.
type limits struct {
	Limits
	pending int64
	promise int64 // what of spaceAccount.promised is this volume's

	// passes are writes that were refused, waited, and may come: by offset.
	passes map[int64]pass
}

// pass lets one write through whose growth is known.
type pass struct {
	length int
	growth int64
}

// maxPasses bounds the passes of a volume: writes that do not come, because their request was given
// up, leave theirs behind.
const maxPasses = 1024

// touched returns how many bytes the chunks have that a range touches.
func touched(off, length, chunk int64) int64 {
	return ((off+length-1)/chunk - off/chunk + 1) * chunk
}

// used returns the bytes that count against the limits.
// REQUIRES: v.mu is held.
func (v *volume) used() int64 {
	n := v.baseData + v.limits.pending
	for _, l := range v.layers {
		n += l.growth
	}
	return n
}

// admitGrowth charges a write, or returns ErrBusy if the quota may not allow it: then admitByQuota
// decides.
// REQUIRES: v.mu is held.
func (v *volume) admitGrowth(off int64, length int) (growth int64, err error) {
	growth = touched(off, int64(length), int64(v.s.sb.ChunkSize))
	if v.limits.Limits == (Limits{}) {
		v.limits.pending += growth
		return growth, nil
	}
	if p, ok := v.limits.passes[off]; ok && p.length == length {
		delete(v.limits.passes, off)
		growth = p.growth
	}
	if q := v.limits.Quota; q > 0 && growth > 0 && v.used()+growth > q {
		return 0, ErrBusy
	}
	v.limits.pending += growth
	v.keepPromise()
	return growth, nil
}

// uncharge takes back the charge of a write that has become part of a layer, or does not come.
// REQUIRES: v.mu is held.
func (v *volume) uncharge(growth int64) {
	v.limits.pending -= growth
	v.keepPromise()
}

// keepPromise brings the volume's promise up to date with what it uses.
// REQUIRES: v.mu is held.
func (v *volume) keepPromise() {
	if v.limits.Reserve == 0 && v.limits.promise == 0 {
		return
	}
	promise := int64(0)
	if v.limits.Reserve > 0 && !v.closed {
		promise = max(v.limits.Reserve-v.used(), 0)
	}
	v.s.space.promised.Add(promise - v.limits.promise)
	v.limits.promise = promise
}

// hasPromise reports whether n bytes were promised to the volume.
func (v *volume) hasPromise(n int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.limits.promise >= n
}

// errQuota is ErrNoSpace of a volume that may not have more, whatever room there is.
var errQuota = fmt.Errorf("%w for the volume", ErrNoSpace)

// admitByQuota decides about a write that admitGrowth has refused. nil: the write may come again. It
// blocks: it looks at the map, and settles the volume where only that tells what the volume has. The
// error is ErrNoSpace, or why that could not be done.
func (v *volume) admitByQuota(ctx context.Context, off, length int64) error {
	for settled := false; ; settled = true {
		v.mu.Lock()
		limited := v.limits.Quota > 0 && v.used()+touched(off, length, int64(v.s.sb.ChunkSize)) > v.limits.Quota
		v.mu.Unlock()
		if !limited {
			return nil
		}
		growth, err := v.growth(ctx, off, length)
		if err != nil {
			return err
		}
		v.mu.Lock()
		quota, used := v.limits.Quota, v.used()
		inexact := slices.ContainsFunc(v.layers, func(l *layer) bool { return l.growth > 0 || l.holes })
		fits := growth == 0 || used+growth <= quota
		if fits {
			if len(v.limits.passes) >= maxPasses || v.limits.passes == nil {
				v.limits.passes = map[int64]pass{}
			}
			v.limits.passes[off] = pass{int(length), growth}
		}
		v.mu.Unlock()
		switch {
		case fits:
			return nil
		case settled || !inexact:
			return fmt.Errorf("volume %s: %w: it has %d of its quota of %d bytes, and %d more are wanted",
				v.Name(), errQuota, used, quota, growth)
		}
		gen, err := v.freeze()
		if err == nil {
			err = v.s.settler.waitSettled(ctx, v, gen)
		}
		if err != nil {
			return fmt.Errorf("count the data of volume %s for its quota: %w", v.Name(), err)
		}
	}
}

// growth returns how many bytes the chunks have that a write would touch and that are holes. It
// blocks.
func (v *volume) growth(ctx context.Context, off, length int64) (int64, error) {
	chunk := int64(v.s.sb.ChunkSize)
	var sum int64
	for from := off / chunk * chunk; from < off+length; from += chunk {
		hole := true
		for at, end := from, min(from+chunk, v.Size()); at < end && hole; {
			h, n, err := v.Extent(ctx, at)
			if err != nil {
				return 0, err
			}
			hole, at = h, at+n
		}
		if hole {
			sum += chunk
		}
	}
	return sum, nil
}

// changed returns limits as a change makes them.
func (l Limits) changed(c VolumeChange) Limits {
	if c.Quota != nil {
		l.Quota = *c.Quota
	}
	if c.Reserve != nil {
		l.Reserve = *c.Reserve
	}
	return l
}

// mayLimit returns what is wrong with limits, where others leave room bytes.
// REQUIRES: catalog.mu is held.
func (v *volume) mayLimit(l Limits, room int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case l.Quota < 0 || l.Reserve < 0:
		return fmt.Errorf("quota of %d and reservation of %d bytes: %w: want 0, for none, or more", l.Quota, l.Reserve, ErrInvalid)
	case l.Quota > 0 && l.Reserve > l.Quota:
		return fmt.Errorf("reservation of %d bytes: %w: want at most the quota of %d bytes", l.Reserve, ErrInvalid, l.Quota)
	case l.Reserve > v.Size():
		return fmt.Errorf("reservation of %d bytes: %w: want at most the volume's size of %d", l.Reserve, ErrInvalid, v.Size())
	case l.Reserve > v.limits.Reserve && l.Reserve-v.used() > room+v.limits.promise:
		return fmt.Errorf("reservation of %d bytes: %w: the volume has %d, and %d more are free", l.Reserve, ErrNoSpace, v.used(), max(room+v.limits.promise, 0))
	}
	return nil
}

// setLimits lets limits take effect.
func (v *volume) setLimits(l Limits) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.limits.Limits = l
	v.keepPromise()
	v.room.fire()
}
