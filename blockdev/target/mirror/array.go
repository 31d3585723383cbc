package mirror

import (
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"varve/blockdev/target/backing"
	"varve/uring/queue"
)

// disk is what a leg keeps its bytes in.
type disk interface {
	Path() string
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64) error
	Sync() error
	// Zero makes a range read as zeroes.
	Zero(off, length int64, keep bool) error
}

// leg is one leg of an array. Fields are written while the array is opened, by the keeper, or under
// array.mu where that is said.
type leg struct {
	disk
	file *backing.File // the disk; nil in tests
	slot int           // where the newest state is; the keeper's
	err  error         // why it went out; under mu

	reading atomic.Int64 // reads in flight
	reads   atomic.Int64 // all that were
	next    atomic.Int64 // where the last read has ended, on the disk
}

// view is who is read and written: one immutable whole, so that a leg that changes its part can't be
// taken for another.
type view struct {
	legs     [MaxLegs]*leg
	readable legSet // in sync, and none that has failed
	active   legSet // to be written
}

// array is the state of a mirror and its rules. It knows requests only as ops, and no rings.
//
// Requests begin and end on the threads of queues, under mu, which is never held over I/O. What has
// to be durable before a request may go on, one goroutine writes, the keeper (keeper.go), while the
// request is held. A second one copies from leg to leg (resync.go).
type array struct {
	log  *slog.Logger
	wake func(*op, queue.Action, error) // has a request go on that was told to wait; doesn't block
	kick func()                         // has the keeper look; doesn't block
	view atomic.Pointer[view]

	n      int   // legs of the set; what follows does not change either
	size   int64 // of the disk, in bytes
	region int64 // in bytes

	mu        sync.Mutex
	state     state // durable on all active legs, but for a change that the keeper is writing
	legs      [MaxLegs]*leg
	settled   uint64         // events of the newest state that is durable on all active legs
	failing   legSet         // active legs that have failed, and are not durably out yet
	intent    *bitmap        // regions whose bits are durable on all active legs
	touched   *bitmap        // regions written since the keeper last cleared bits
	stale     *bitmap        // regions that the resyncing legs lack
	joins     int            // counts when stale has grown
	promoting legSet         // resyncing legs that are said to be in sync, in a state that is being written
	skipped   *bitmap        // stale regions that could not be read; tried again later
	ranges    ranges         // under way
	waiting   []*op          // for the keeper
	uneven    bool           // a request was given up half done: the legs may differ where nothing is under way
	repairs   []repair       // of failed reads
	errors    [MaxLegs]int64 // failed requests of each leg, or of the leg that was in its place
}

func newArray(s state, log *slog.Logger) *array {
	n := s.regions()
	return &array{
		log: log, n: s.legs, size: s.size, region: s.region, state: s, settled: s.settled, intent: newBitmap(n), touched: newBitmap(n), stale: newBitmap(n), skipped: newBitmap(n),
		kick: func() {},
		wake: func(o *op, a queue.Action, err error) { o.r.Post(a, err) },
	}
}

// publish makes the legs' parts known to the queues. Under mu.
func (a *array) publish() {
	a.view.Store(&view{
		legs: a.legs, readable: a.state.in(partInSync) &^ a.failing, active: a.state.active(),
	})
}

// op is a write, flush or zeroing under way.
type op struct {
	span  span // empty for a flush
	r     *queue.Request
	phase phase
	taken bool   // by the keeper
	legs  legSet // that it was sent to
	view  *view
	err   error // what becomes of it
}

// phase is what an op that waits for the keeper waits for.
type phase uint8

const (
	phaseNone  phase = iota
	phaseBegin       // the bits of its regions, and failures before it
	phaseEnd         // legs that have failed are durably out
)

// regionsOf returns the regions of an op, which has some.
func (a *array) regionsOf(s *span) (first, last int) {
	return int(s.off / a.region), int((s.end - 1) / a.region)
}

// begin returns whether an op may be sent to o.legs. If not, it will be told to begin again.
func (a *array) begin(o *op) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	writes := o.span.end > o.span.off
	if writes && !o.span.in {
		o.span.op = o
		if !a.ranges.enter(&o.span) {
			return false
		}
	}
	if a.failing != 0 || writes && !a.intends(&o.span) {
		a.wait(o, phaseBegin)
		return false
	}
	if writes {
		for i, last := a.regionsOf(&o.span); i <= last; i++ {
			a.touched.set(i)
		}
	}
	o.view = a.view.Load()
	o.legs = o.view.active
	return true
}

// intends reports whether the bits of a part's regions are durable.
func (a *array) intends(s *span) bool {
	for i, last := a.regionsOf(s); i <= last; i++ {
		if !a.intent.has(i) {
			return false
		}
	}
	return true
}

// wait has an op wait for the keeper. Under mu.
func (a *array) wait(o *op, p phase) {
	o.phase, o.taken = p, false
	a.waiting = append(a.waiting, o)
	a.kick()
}

// end takes the result of an op that was sent to o.legs, of which some have failed, the last with
// err. done: the op is over, with what is returned. Otherwise it will be told its end when the
// legs that have failed are durably out: what it acknowledges they lack.
func (a *array) end(o *op, failed legSet, err error) (done bool, result error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o.err = nil
	if failed != 0 {
		a.fail(failed, err)
		if o.legs&a.state.in(partInSync)&^a.failing&^failed == 0 {
			o.err = err
			a.unsource(o)
		}
		if a.failing != 0 {
			a.wait(o, phaseEnd)
			return false, nil
		}
	}
	a.leave(o)
	return true, o.err
}

// unsource has the legs that are resyncing get the regions of a write again: no leg in sync, from
// which they get theirs, has all of it. Under mu.
func (a *array) unsource(o *op) {
	if o.span.end == o.span.off || a.state.in(partResyncing) == 0 {
		return
	}
	a.failing |= a.promoting // too late to copy
	for i, last := a.regionsOf(&o.span); i <= last; i++ {
		a.stale.set(i)
	}
	a.joins++ // a copy that is under way does not count
	a.publish()
}

// leave ends an op. Under mu.
func (a *array) leave(o *op) {
	a.ranges.leave(&o.span, a.granted)
	o.phase, o.taken, o.legs, o.view = phaseNone, false, 0, nil
}

func (a *array) granted(s *span) {
	if s.op != nil {
		a.wake(s.op, queue.Again, nil)
		return
	}
	close(s.free)
}

// fail notes that legs have failed. The last one in sync is kept: its errors are the requests'.
// Under mu.
func (a *array) fail(failed legSet, err error) {
	before := a.failing
	for i := range a.n {
		if failed.has(i) {
			a.errors[i]++
		}
		if !failed.has(i) || a.failing.has(i) {
			continue
		}
		switch a.state.parts[i] {
		case partInSync:
			if rest := a.state.in(partInSync) &^ a.failing; rest == one(i) {
				continue
			}
		case partResyncing:
		default:
			continue
		}
		a.failing |= one(i)
		a.legs[i].err = err
	}
	if a.failing != before {
		a.publish()
		a.kick()
	}
}

// drop makes the array forget an op whose request is given up.
func (a *array) drop(o *op) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o.legs != 0 {
		a.uneven = true
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(w *op) bool { return w == o })
	a.leave(o)
}

// less reports whether a leg has less to do than another one: reads in flight, or else in all.
func (l *leg) less(o *leg) bool {
	if a, b := l.reading.Load(), o.reading.Load(); a != b {
		return a < b
	}
	return l.reads.Load() < o.reads.Load()
}

// choose returns the leg that a read at off goes to, of those in sync and not tried yet: the one
// that a sequence of reads is on, else the one with the least to do. nil: there is none.
func (v *view) choose(off int64, tried legSet) (*leg, int) {
	var best *leg
	at := 0
	for left := v.readable &^ tried; left != 0; left &= left - 1 {
		i := bits.TrailingZeros8(uint8(left))
		l := v.legs[i]
		if off != 0 && l.next.Load() == off {
			return l, i
		}
		if best == nil || l.less(best) {
			best, at = l, i
		}
	}
	return best, at
}
