package objstore

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/internal/disk"
)

// fakeDisk is what an account of room knows of the disk and of those who give room back.
type fakeDisk struct {
	free, used atomic.Int64
	looks      atomic.Int64
	returning  atomic.Bool
	stopped    atomic.Bool
	asked      atomic.Int64
	err        error
}

func (d *fakeDisk) account(total, reserve, maxSize int64) *spaceAccount {
	a := newSpaceAccount(total, spaceDeps{
		free:         func() (int64, error) { d.looks.Add(1); return d.free.Load(), d.err },
		used:         func() (int64, error) { return d.used.Load(), nil },
		returning:    d.returning.Load,
		wantSettling: func() { d.asked.Add(1) },
		stopped:      d.stopped.Load,
		log:          slog.New(slog.DiscardHandler),
	})
	a.setLimits(reserve, maxSize)
	return a
}

const mib = 1 << 20

// What a request is told that finds no budget: there is room, settling may make some, or neither.
func TestSpaceLook(t *testing.T) {
	for name, c := range map[string]struct {
		free, used, maxSize int64
		tails, reserved     int64
		stuck, stuckRes     int64
		returning, stopped  bool
		n                   int64
		hole                bool
		want                error
	}{
		"room":                                {free: 100 * mib, n: 4 * mib},
		"the reserve is not for writes":       {free: 11 * mib, n: 2 * mib, want: ErrNoSpace},
		"half of it is for holes":             {free: 11 * mib, n: 2 * mib, hole: true},
		"half of it is not":                   {free: 5 * mib, n: 1, hole: true, want: ErrNoSpace},
		"the maximum bounds writes":           {free: 100 * mib, used: 199 * mib, maxSize: 200 * mib, n: 2 * mib, want: ErrNoSpace},
		"no maximum bounds holes":             {free: 100 * mib, used: 300 * mib, maxSize: 200 * mib, n: 2 * mib, hole: true},
		"a tail may give room back":           {free: 11 * mib, tails: mib, n: 2 * mib, want: ErrBusy},
		"one that does not settle does not":   {free: 11 * mib, tails: mib, stuck: mib, n: 2 * mib, want: ErrNoSpace},
		"settling needs the room first":       {free: 20 * mib, reserved: 9 * mib, n: 2 * mib, want: ErrBusy},
		"and never uses what is stuck":        {free: 20 * mib, reserved: 9 * mib, stuckRes: 9 * mib, n: 2 * mib, want: ErrNoSpace},
		"a reservation makes no room":         {free: 11 * mib, reserved: mib, n: 2 * mib, want: ErrNoSpace},
		"a settled layer gives room back":     {free: 11 * mib, returning: true, n: 2 * mib, want: ErrBusy},
		"nothing settles in a read-only one":  {free: 11 * mib, tails: mib, stopped: true, n: 2 * mib, want: ErrNoSpace},
		"what is reserved is left for layers": {free: 20 * mib, reserved: 8 * mib, n: 2 * mib},
	} {
		var d fakeDisk
		d.free.Store(c.free)
		d.used.Store(c.used)
		d.returning.Store(c.returning)
		d.stopped.Store(c.stopped)
		a := d.account(1000*mib, 10*mib, c.maxSize)
		a.commit(c.tails, c.reserved)
		a.stuck(c.stuck, c.stuckRes)
		take := a.take
		if c.hole {
			take = a.takeHole
		}
		if take(c.n) {
			t.Errorf("%s: the account hands out what it has not seen", name)
		}
		err := a.look(c.n, c.hole)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if got := take(c.n); got != (c.want == nil) {
			t.Errorf("%s: taken %v after that", name, got)
		}
	}
}

// However many take at once while others look, no more is handed out than there is, but for what
// each of them is about to take note of (inflight) as another one looks; and the budget ends.
func TestSpaceBudgetIsNeverExceeded(t *testing.T) {
	const reserve, total, takerCount, largest = 10 * mib, 500 * mib, 4, mib
	var d fakeDisk
	d.free.Store(total)
	a := d.account(total, reserve, 0)
	ctx := t.Context()
	go a.run(ctx)
	var takers sync.WaitGroup
	var taken atomic.Int64
	for i := range takerCount {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		takers.Go(func() {
			for {
				n := rng.Int64N(largest) + 1
				switch {
				case a.take(n):
					a.inflight.Add(n)
					taken.Add(n)
					if rng.IntN(2) == 0 { // the disk knows of it
						d.free.Add(-n)
						a.inflight.Add(-n)
					}
				case errors.Is(a.look(n, false), ErrNoSpace):
					return
				}
			}
		})
	}
	takers.Wait()
	if got := taken.Load(); got > total-reserve+takerCount*largest || got < total-reserve-8*mib {
		t.Fatalf("%d bytes were taken of %d", got, total-reserve)
	}
}

// The budget is granted anew before it ends: a taker finds none only if nobody has looked in time.
func TestSpaceIsLookedForAhead(t *testing.T) {
	var d fakeDisk
	d.free.Store(1000 * mib)
	a := d.account(1000*mib, 10*mib, 0)
	go a.run(t.Context())
	must(t, a.look(1, false))
	for range 40 {
		for a.budget.Load() < spaceStep/2 {
			time.Sleep(time.Millisecond)
		}
		if !a.take(4 * mib) {
			t.Fatal("no budget, and half of it was there")
		}
	}
	if n := d.looks.Load(); n < 4 {
		t.Errorf("%d looks", n)
	}
}

// A request that waits for room goes on when a layer has settled, when room was given back, when a
// limit has changed, and at each tick; while it waits, the settler is asked.
func TestSpaceWaitersAreWoken(t *testing.T) {
	for name, wake := range map[string]func(a *spaceAccount){
		"settled":  func(a *spaceAccount) { a.settled(&layer{}) },
		"returned": func(a *spaceAccount) { a.returned() },
		"limits":   func(a *spaceAccount) { a.setLimits(1, 0) },
		"tick":     func(a *spaceAccount) { a.tick() },
	} {
		var d fakeDisk
		a := d.account(1000*mib, 10*mib, 0)
		freed := a.freed.next()
		waited := make(chan error)
		go func() { waited <- a.wait(t.Context(), freed) }()
		for d.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		if a.waiting.Load() != 1 {
			t.Errorf("%s: nobody waits", name)
		}
		wake(a)
		must(t, <-waited)
		if a.waiting.Load() != 0 {
			t.Errorf("%s: somebody waits still", name)
		}
	}
}

// An error that means a full disk has the next request look; any other is left alone, as is the
// budget.
func TestSpaceNoteError(t *testing.T) {
	var d fakeDisk
	d.free.Store(100 * mib)
	a := d.account(1000*mib, 10*mib, 0)
	must(t, a.look(1, false))
	if err := a.noteError(disk.ErrCorrupt); !errors.Is(err, disk.ErrCorrupt) || !a.has(1, false) {
		t.Errorf("%v, budget %d", err, a.budget.Load())
	}
	if err := a.noteError(ErrNoSpace); !errors.Is(err, ErrNoSpace) || a.has(1, true) {
		t.Errorf("%v, budget %d", err, a.budget.Load())
	}
	d.err = errors.New("the disk is gone")
	if err := a.look(1, false); !errors.Is(err, d.err) {
		t.Errorf("a disk that does not answer: %v", err)
	}
}
