// Package mirror is a disk that is kept in full on each of several files or block devices, its legs.
//
//	disk    | ............................. |
//	leg 0   states, intent bitmap | ............................. |
//	leg 1   states, intent bitmap | ............................. |
//	        0                     DataOffset
//
// A write becomes one secondary for each leg, all in flight together; so do a flush, and zeroes. A
// read goes to one leg.
//
// # Promises
//
// What was flushed is on every leg in sync. No two reads see different answers for a sector that was
// acknowledged, whichever leg serves them, also after a crash or with a leg that came back. One leg
// in sync is enough. For that, these steps are in order, each durable before the next:
//
//	write   1. the bits of its regions, on all active legs; usually they are set already
//	        2. the bytes, on all active legs
//	        3. where a leg has failed: that it is out, on all others
//	        4. the answer
//	bits    are cleared lazily, after a sync, when all legs are in sync
//	open    1. which legs count, and that the set is in use
//	        2. the first write
//
// A leg is in sync; or resyncing: it is written, and not read; or out. Writes that overlap go one
// after the other: otherwise they could reach two legs in two orders.
//
// # After a crash
//
// Legs may differ where bits are set. One leg in sync is then the source, and the others are
// resyncing, which is durable before anything is read: whatever the source holds is the answer, for
// good. If the source fails before the others have it, requests fail, though bytes that were flushed
// before the crash are on all legs: some reader may have seen what only the source had.
// Options.ResyncFrom chooses another leg.
//
// The same copies what a leg lacks that has come back: bits stay set as long as a leg is out.
//
// # Failures
//
// A read that fails is served by another leg, and what was read is written to the first leg again. A
// leg that fails a write, a sync, or that repair, goes out, and the device goes on. The last leg in
// sync stays: its errors are those of the requests.
package mirror

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/backing"
	"varve/uring"
	"varve/uring/queue"
)

// Mirror is a disk over its legs.
type Mirror struct {
	*array
	lim      target.Limits
	options  Options
	notes    []string
	kicks    chan struct{} // for the keeper
	kickCopy chan struct{} // for the copier
	asks     chan func()   // what else the keeper has to do
	quit     chan struct{}
	running  sync.WaitGroup
	retired  []*backing.File // of legs that others have replaced: their descriptors must not be used again
}

// forgetEvery is how often bits are cleared: of regions that were not written for once to twice as
// long.
const forgetEvery = 5 * time.Second

// retryEvery is how often regions are read again that could not be read.
const retryEvery = 10 * time.Second

func newMirror(a *array, o Options) *Mirror {
	m := &Mirror{
		array: a, options: o, kicks: make(chan struct{}, 1), kickCopy: make(chan struct{}, 1), asks: make(chan func()), quit: make(chan struct{}),
		lim: target.Limits{
			Size: a.size, BlockSize: a.state.block, ReadOnly: o.ReadOnly, Discard: !o.ReadOnly, Zeroes: !o.ReadOnly, Cache: true, DMAAlign: 4,
		},
	}
	a.kick = func() {
		for _, c := range []chan struct{}{m.kicks, m.kickCopy} {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	return m
}

func (m *Mirror) note(s string) { m.notes = append(m.notes, s) }

// start begins to serve, when all legs are known.
func (m *Mirror) start() {
	for _, l := range m.legs {
		if l != nil {
			m.lim.Discard = m.lim.Discard && l.file.Discards()
			m.lim.DMAAlign = max(m.lim.DMAAlign, l.file.MemAlign())
		}
	}
	if m.lim.ReadOnly {
		return
	}
	m.running.Go(m.runKeeper)
	m.running.Go(m.runCopier)
	m.kick() // legs may be behind
}

func (m *Mirror) runKeeper() {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.quit:
			return
		case f := <-m.asks:
			f()
		case <-m.kicks:
		case <-tick.C:
			m.forget()
		}
		m.keep()
		m.bringIn()
	}
}

func (m *Mirror) runCopier() {
	c := newCopier(m.array, m.quit)
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.quit:
			return
		case <-m.kickCopy:
		case <-tick.C:
			m.mu.Lock()
			m.skipped.clearAll()
			m.mu.Unlock()
		}
		c.copyAll()
	}
}

// copyAll does repairs, and copies what legs lack, until nothing is left.
func (c *copier) copyAll() {
	for at := 0; ; {
		select {
		case <-c.quit:
			return
		default:
		}
		for r, ok := c.nextRepair(); ok; r, ok = c.nextRepair() {
			if err := c.mend(r); err != nil && !errors.Is(err, errClosing) {
				c.log.Warn("a bad place of a leg was not repaired", slog.Int("leg", r.leg), slog.Any("err", err))
			}
		}
		region, joins, err := c.next(at)
		if err != nil {
			return
		}
		if at = region + 1; region < 0 {
			at = 0
			continue
		}
		begun := time.Now()
		if err := c.copyRegion(region, joins); err != nil && !errors.Is(err, errClosing) {
			c.log.Error("a region of a mirror was not resynced", slog.Int("region", region), slog.Any("err", err))
		}
		if c.busy() { // half of the time is for others
			select {
			case <-c.quit:
			case <-time.After(time.Since(begun)):
			}
		}
	}
}

// busy reports whether requests are under way.
func (c *copier) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ranges.list) > 0 {
		return true
	}
	for _, l := range c.legs {
		if l != nil && l.reading.Load() > 0 {
			return true
		}
	}
	return false
}

// Close makes the legs know that they are the same, and closes them. The device has stopped.
func (m *Mirror) Close() error {
	close(m.quit)
	m.running.Wait()
	var errs []error
	if !m.lim.ReadOnly {
		errs = append(errs, m.finish())
	}
	for _, l := range m.legs {
		if l != nil {
			errs = append(errs, l.file.Close())
		}
	}
	return errors.Join(append(errs, closeAll(m.retired))...)
}

// finish ends the use of the array. Whatever was given up half done keeps its bits, as after a crash.
func (a *array) finish() error {
	a.mu.Lock()
	uneven := a.uneven || len(a.ranges.list) > 0 || len(a.waiting) > 0
	active := a.state.active()
	a.mu.Unlock()
	if uneven {
		return a.commit(nil)
	}
	if failed, err := a.syncAll(active); failed != 0 && !a.failed(failed, err) {
		return err
	}
	if err := a.commit(nil); err != nil {
		return err
	}
	a.touched.clearAll()
	a.forget()
	return a.commit(func(s *state) { s.clean = true })
}

// Limits implements target.Target.
func (m *Mirror) Limits() target.Limits { return m.lim }

// Notes are for the user.
func (m *Mirror) Notes() []string { return m.notes }

// Direct reports whether all legs go past the page cache.
func (m *Mirror) Direct() bool {
	return !slices.ContainsFunc(m.view.Load().legs[:], func(l *leg) bool { return l != nil && !l.file.Direct() })
}

// NewPart implements target.Target.
func (m *Mirror) NewPart(*queue.Queue) (queue.Part, error) {
	var fds []int
	for _, l := range m.view.Load().legs {
		if l != nil {
			fds = append(fds, l.file.FD())
		}
	}
	return queue.Handlers{New: func() queue.Handler { return &handler{Mirror: m} }, FDs: fds}, nil
}

// handler serves the requests of a tag.
type handler struct {
	*Mirror
	op    op
	view  *view  // of a read
	tried legSet // legs that a read has failed on
	at    int    // the leg that a read is on
}

func (h *handler) Start(r *queue.Request) (queue.Action, error) {
	switch r.Op {
	case queue.OpRead:
		h.view, h.tried = h.Mirror.view.Load(), 0
		return h.read(r, nil)
	case queue.OpWrite, queue.OpDiscard, queue.OpWriteZeroes:
		if r.Len == 0 {
			return queue.Answer, unix.EINVAL
		}
		if !h.op.span.in { // else it comes back from a wait
			h.op.span.off, h.op.span.end = r.Off, r.Off+int64(r.Len)
		}
	case queue.OpFlush:
		h.op.span.off, h.op.span.end = 0, 0
	default:
		return queue.Answer, unix.EOPNOTSUPP
	}
	if h.lim.ReadOnly {
		return queue.Answer, unix.EROFS
	}
	h.op.r = r
	if !h.begin(&h.op) {
		return queue.Hold, nil
	}
	for i, l := range h.op.view.legs {
		if h.op.legs.has(i) {
			add(r, l.file.FD())
		}
	}
	if r.FUA && r.Op == queue.OpWrite {
		r.SetFlags(unix.RWF_DSYNC)
	}
	return queue.Submit, nil
}

// add adds what a request does on one leg: as many secondaries as perLeg says.
func add(r *queue.Request, fd int) {
	switch r.Op {
	case queue.OpWrite:
		r.Secondary(fd, DataOffset+r.Off, 0, r.Len)
		return
	case queue.OpFlush:
	default:
		mode := uint32(backing.Punch)
		if r.Op == queue.OpWriteZeroes && r.NoUnmap {
			mode = backing.ZeroRange
		}
		r.Add(uring.Secondary{
			Op: uring.SecondaryFallocate, FD: int32(fd), FileOff: uint64(DataOffset + r.Off), Len: uint32(r.Len), Flags: mode, Link: r.FUA,
		})
		if !r.FUA {
			return
		}
	}
	r.Add(uring.Secondary{Op: uring.SecondaryFsync, FD: int32(fd), Flags: uring.IORING_FSYNC_DATASYNC})
}

func perLeg(r *queue.Request) int {
	if r.FUA && (r.Op == queue.OpDiscard || r.Op == queue.OpWriteZeroes) {
		return 2
	}
	return 1
}

// read sends a read to a leg that it has not failed on; err is how it failed on the last one.
func (h *handler) read(r *queue.Request, err error) (queue.Action, error) {
	l, at := h.view.choose(r.Off, h.tried)
	if l == nil {
		return queue.Answer, err
	}
	h.at = at
	l.reading.Add(1)
	l.reads.Add(1)
	l.next.Store(r.Off + int64(r.Len))
	r.Secondary(l.file.FD(), DataOffset+r.Off, 0, r.Len)
	return queue.Submit, nil
}

func (h *handler) Finish(r *queue.Request, err error) (queue.Action, error) {
	if r.Op == queue.OpRead {
		l := h.view.legs[h.at]
		l.reading.Add(-1)
		if err != nil {
			h.tried |= one(h.at)
			return h.read(r, legError(h.at, l.Path(), err))
		}
		if h.tried != 0 && !h.lim.ReadOnly {
			h.wantsRepair(h.tried, r.Off, r.Off+int64(r.Len))
		}
		return queue.Answer, nil
	}
	if err == nil {
		return h.conclude(0, nil)
	}
	if errors.Is(err, unix.EOPNOTSUPP) && !r.HasData() && r.Op != queue.OpFlush {
		return queue.Handoff, nil
	}
	failed, sec := legSet(0), 0
	for i, l := range h.op.view.legs {
		if !h.op.legs.has(i) {
			continue
		}
		for range perLeg(r) {
			if _, e := r.Result(sec); e != nil && !failed.has(i) {
				failed |= one(i)
				err = legError(i, l.Path(), e)
			}
			sec++
		}
	}
	return h.conclude(failed, err)
}

// conclude ends an op.
func (h *handler) conclude(failed legSet, err error) (queue.Action, error) {
	if done, err := h.end(&h.op, failed, err); done {
		return queue.Answer, err
	}
	return queue.Hold, nil
}

// Work zeroes by what else there is.
func (h *handler) Work(_ context.Context, r *queue.Request) (queue.Action, error) {
	failed, err := legSet(0), error(nil)
	for i, l := range h.op.view.legs {
		if !h.op.legs.has(i) {
			continue
		}
		e := l.file.Zero(DataOffset+r.Off, int64(r.Len), r.Op == queue.OpWriteZeroes && r.NoUnmap)
		if e == nil && r.FUA {
			e = l.file.Sync()
		}
		if e != nil {
			failed |= one(i)
			err = legError(i, l.Path(), e)
		}
	}
	return h.conclude(failed, err)
}

// Drop implements queue.Handler.
func (h *handler) Drop(*queue.Request) { h.drop(&h.op) }
