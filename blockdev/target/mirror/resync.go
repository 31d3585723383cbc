package mirror

import (
	"errors"
	"fmt"
	"log/slog"

	"varve/blockdev/target/backing"
)

// copyStep is how many bytes are copied from leg to leg at once: writes of them wait meanwhile.
const copyStep = 256 << 10

// repair is a read that has failed on a leg.
type repair struct {
	leg      int
	off, end int64 // of the disk
}

// maxRepairs wait at once. One that is not noted is when it is read again.
const maxRepairs = 256

// wantsRepair notes that a read has failed on some legs, and was served by another.
func (a *array) wantsRepair(failed legSet, off, end int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.n {
		if !failed.has(i) {
			continue
		}
		a.errors[i]++
		if len(a.repairs) < maxRepairs {
			a.repairs = append(a.repairs, repair{i, off, end})
		}
	}
	a.kick()
}

// nextRepair returns one that is to be done.
func (a *array) nextRepair() (r repair, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.repairs) == 0 {
		return r, false
	}
	r = a.repairs[0]
	a.repairs = a.repairs[1:]
	return r, true
}

// errClosing ends a copy that would wait.
var errClosing = errors.New("the mirror is being closed")

// hold takes a part of the disk for a copy.
func (a *array) hold(s *span, quit <-chan struct{}) error {
	s.free = make(chan struct{})
	a.mu.Lock()
	has := a.ranges.enter(s)
	a.mu.Unlock()
	if has {
		return nil
	}
	select {
	case <-s.free:
		return nil
	case <-quit:
		a.unhold(s)
		return errClosing
	}
}

func (a *array) unhold(s *span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ranges.leave(s, a.granted)
}

// copier copies from leg to leg: a goroutine of its own.
type copier struct {
	*array
	quit <-chan struct{}
	mem  []byte
}

func newCopier(a *array, quit <-chan struct{}) *copier {
	return &copier{array: a, quit: quit, mem: backing.Memory(copyStep)}
}

// mend writes what could not be read to the leg again, from another one: a disk has a sector that
// is bad anew where it is written. A leg that can't be written, or still not be read, goes out.
func (c *copier) mend(r repair) error {
	for off := r.off; off < r.end; off += copyStep {
		if err := c.mendStep(r.leg, off, min(off+copyStep, r.end)); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) mendStep(k int, off, end int64) error {
	s := span{off: off, end: end}
	if err := c.hold(&s, c.quit); err != nil {
		return err
	}
	defer c.unhold(&s)
	v := c.view.Load()
	from, _ := v.choose(off, one(k))
	if from == nil || !v.readable.has(k) {
		return nil // it is out, or the only one
	}
	p, to := c.mem[:end-off], v.legs[k]
	if err := from.ReadAt(p, DataOffset+off); err != nil {
		return err
	}
	err := to.WriteAt(p, DataOffset+off)
	if err == nil {
		err = to.ReadAt(p, DataOffset+off)
	}
	if err != nil {
		err = legError(k, to.Path(), err)
		c.mu.Lock()
		c.fail(one(k), err)
		c.mu.Unlock()
		return err
	}
	c.log.Warn("a bad place of a leg was written again from another leg", slog.Int("leg", k), slog.String("file", to.Path()),
		slog.Int64("offset", off), slog.Int64("bytes", end-off))
	return nil
}

// errNothing: no leg is behind, or none that can be brought up to date now.
var errNothing = errors.New("nothing to resync")

// next returns a region from the given one on that is to be copied, and how many legs had come back
// then.
func (c *copier) next(from int) (region, joins int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.in(partResyncing)&^c.failing == 0 {
		return 0, 0, errNothing
	}
	for i := c.stale.next(from); i >= 0; i = c.stale.next(i + 1) {
		if !c.skipped.has(i) {
			return i, c.joins, nil
		}
	}
	if from > 0 {
		return -1, 0, nil // from the start again
	}
	return 0, 0, errNothing
}

// copyRegion makes a region the same on the legs that are behind.
func (c *copier) copyRegion(region, joins int) error {
	from := int64(region) * c.region
	for off, end := from, min(from+c.region, c.size); off < end; off += copyStep {
		if err := c.copyStep(off, min(off+copyStep, end)); err != nil {
			if !errors.Is(err, errClosing) {
				c.mu.Lock()
				c.skipped.set(region)
				c.mu.Unlock()
			}
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.joins == joins { // else a leg that has come back meanwhile lacks it
		c.stale.clear(region)
	}
	if c.stale.count == 0 {
		c.kick() // the keeper brings them in
	}
	return nil
}

func (c *copier) copyStep(off, end int64) error {
	s := span{off: off, end: end}
	if err := c.hold(&s, c.quit); err != nil {
		return err
	}
	defer c.unhold(&s)
	c.mu.Lock()
	v, to := c.view.Load(), c.state.in(partResyncing)&^c.failing
	c.mu.Unlock()
	p := c.mem[:end-off]
	var err error
	for tried := legSet(0); ; {
		from, i := v.choose(off, tried)
		if from == nil {
			return fmt.Errorf("resync of %d bytes at %d: no leg can be read: %w", end-off, off, err)
		}
		if err = from.ReadAt(p, DataOffset+off); err == nil {
			break
		}
		tried |= one(i)
	}
	for i := range c.n {
		if !to.has(i) {
			continue
		}
		if err := put(v.legs[i], p, DataOffset+off); err != nil {
			c.mu.Lock()
			c.fail(one(i), legError(i, v.legs[i].Path(), err))
			c.mu.Unlock()
		}
	}
	return nil
}

// put writes what was copied. Zeroes stay as sparse as they can be.
func put(d disk, p []byte, off int64) error {
	for _, b := range p {
		if b != 0 {
			return d.WriteAt(p, off)
		}
	}
	return d.Zero(off, int64(len(p)), false)
}

// bringIn makes legs that lack nothing any more those in sync: the keeper's.
func (a *array) bringIn() {
	a.mu.Lock()
	ready := a.state.in(partResyncing) &^ a.failing
	if a.stale.count > 0 || ready == 0 {
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	if failed, err := a.syncAll(ready); failed != 0 {
		a.failed(failed, err)
		ready &^= failed
		if ready == 0 {
			a.keep()
			return
		}
	}
	err := a.commit(func(s *state) {
		a.promoting = 0
		for i := range s.legs {
			if ready.has(i) && s.parts[i] == partResyncing && a.stale.count == 0 {
				s.parts[i] = partInSync
				a.promoting |= one(i)
			}
		}
	})
	a.mu.Lock()
	if err != nil { // a leg's own state may say that it is in sync, as only it would think
		a.failing |= a.promoting & a.state.active()
		a.publish()
	}
	a.promoting = 0
	a.mu.Unlock()
	if err != nil {
		a.log.Error("a leg of a mirror stays out of sync", slog.Any("err", err))
	}
}
