package objstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What recovery has frozen settles a moment after the opening, when devices are served again; at
// once for a caller that waits.
func TestSettlingAfterOpening(t *testing.T) {
	for _, wait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{})
			v := r.volume("a", 16<<20)
			r.write(v, randomBytes(1, 8192), 0)
			r.end("killed")
			r.o.SettleDelay = time.Hour
			r.open(nil)
			tail := func() int64 { return r.s.space.tails.Load() }
			opened := time.Now()
			if wait {
				must(t, r.s.Settle(t.Context()))
				if d := time.Since(opened); d > openingGrace/2 {
					t.Errorf("settled %v after the opening, for a caller that waits", d)
				}
			} else {
				time.Sleep(openingGrace - settlerTick)
				if tail() == 0 {
					t.Error("settled at once")
				}
				time.Sleep(3 * settlerTick)
			}
			if n := tail(); n > 0 {
				t.Errorf("%d bytes have not settled", n)
			}
			must(t, r.s.Close())
		})
	}
}

// The layers of a volume settle oldest first, each once, and the segments that a settling has filled
// are ended before the next one. An active layer is frozen when it has waited for the settle delay.
func TestSettlerOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		for range 3 {
			v.write(1)
			_, _ = v.freeze()
		}
		v.write(1)
		r.take()
		stop := r.start(t)
		time.Sleep(time.Second) // the delay, less than a tick
		want := []string{"settle v 1", "seal", "settle v 2", "seal", "settle v 3", "seal"}
		if got := r.take(); !slices.Equal(got, want) {
			t.Errorf("before the settle delay: %q, want %q", got, want)
		}
		time.Sleep(2 * settlerTick)
		want = []string{"freeze v 4", "settle v 4", "seal"}
		if got := r.take(); !slices.Equal(got, want) {
			t.Errorf("after the settle delay: %q, want %q", got, want)
		}
		time.Sleep(time.Hour)
		if got := r.take(); len(got) > 0 {
			t.Errorf("nothing was written, and there is %q", got)
		}
		if n := r.ticks.Load(); n < 3600 {
			t.Errorf("%d rounds of housekeeping in an hour", n)
		}
		stop()
	})
}

// What presses is frozen and settled at the next look, however short it has waited; what has
// nothing to settle is left alone.
func TestSettlerPressure(t *testing.T) {
	for name, c := range map[string]struct {
		press func(*settlerRig, *fakeVolume)
		want  bool
	}{
		"nothing":                   {func(*settlerRig, *fakeVolume) {}, false},
		"a long tail":               {func(_ *settlerRig, v *fakeVolume) { v.write(100 * mib) }, true},
		"a long journal":            {func(_ *settlerRig, v *fakeVolume) { v.b.journalLong = true }, true},
		"a request waits for space": {func(r *settlerRig, _ *fakeVolume) { r.deps.space.waiting.Add(1) }, true},
		"low space":                 {func(r *settlerRig, _ *fakeVolume) { r.deps.space.lowSpace.Store(true) }, true},
		"nothing to settle":         {func(r *settlerRig, v *fakeVolume) { v.b = backlog{}; r.deps.space.waiting.Add(1) }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newSettlerRig()
			v := r.volume("v")
			v.write(1)
			c.press(r, v)
			stop := r.start(t)
			r.ask()
			synctest.Wait()
			if got := slices.Contains(r.take(), "settle v 1"); got != c.want {
				t.Errorf("%s: settled %v, want %v", name, got, c.want)
			}
			stop()
		})
	}
}

// Settling waits until the index is filled and devices of a killed daemon are served: unless a
// caller waits for it, or it presses, or layers pile up.
func TestSettlerHoldsBack(t *testing.T) {
	caller := func(t *testing.T, r *settlerRig, v *fakeVolume) { must(t, r.waitSettled(t.Context(), v, 1)) }
	for name, c := range map[string]struct {
		opening bool
		layers  int
		act     func(*testing.T, *settlerRig, *fakeVolume)
		want    bool
	}{
		"filling":                     {layers: 1},
		"opening":                     {opening: true, layers: 1},
		"filling, a caller waits":     {layers: 1, act: caller, want: true},
		"opening, a caller waits":     {opening: true, layers: 1, act: caller, want: true},
		"filling, it presses":         {layers: 1, act: func(_ *testing.T, _ *settlerRig, v *fakeVolume) { v.write(101 * mib) }, want: true},
		"filling, half of the layers": {layers: frozenLayers/2 - 1},
		"filling, more than half":     {layers: frozenLayers / 2, want: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newSettlerRig()
			if r.filling.Store(!c.opening); c.opening {
				began := time.Now()
				r.deps.uptime = func() time.Duration { return time.Since(began) }
			}
			v := r.volume("v")
			for range c.layers {
				v.write(1)
				_, _ = v.freeze()
			}
			r.take()
			stop := r.start(t)
			if r.ask(); c.act != nil {
				c.act(t, r, v)
				r.ask()
			}
			synctest.Wait()
			if got := slices.Contains(r.take(), "settle v 1"); got != c.want {
				t.Errorf("%s: settled %v, want %v", name, got, c.want)
			}
			r.filling.Store(false)
			time.Sleep(openingGrace)
			if v.backlog().frozen > 0 {
				t.Errorf("%s: %d layers still wait when it is over", name, v.backlog().frozen)
			}
			stop()
		})
	}
}

// A volume that can't settle is tried again at growing intervals, and delays no other; what may
// help it has it tried at once, and success ends the series.
func TestSettlerRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		bad, good := r.volume("bad"), r.volume("good")
		bad.will(fails(errors.New("no")))
		bad.write(1)
		_, _ = bad.freeze()
		start := time.Now()
		stop := r.start(t)
		time.Sleep(2 * time.Hour)
		waits := bad.waits(start)
		for i, d := range waits[1:] {
			want := min(firstRetry<<(2*min(i, 8)), longestRetry)
			if d < want || d > want+settlerTick {
				t.Errorf("try %d comes %v after the one before, want %v", i+2, d, want)
			}
		}
		if n := len(waits); n < 24 || n > 32 {
			t.Errorf("%d tries in two hours", n)
		}
		good.write(1)
		time.Sleep(time.Second + 2*settlerTick)
		if good.settled() != 1 {
			t.Error("a volume waits for another one that can't settle")
		}
		for name, help := range map[string]func(){
			"a repair":               func() { r.repairs.Add(1) },
			"a change of the volume": func() { bad.attempts.changes.Add(1) },
		} {
			bad.waits(start)
			help()
			r.ask()
			synctest.Wait()
			if n := len(bad.waits(start)); n != 1 {
				t.Errorf("after %s: %d tries", name, n)
			}
		}
		start = time.Now()
		if err := r.waitSettled(t.Context(), bad, 1); err == nil || time.Since(start) > settlerTick/10 {
			t.Errorf("a caller got %v after %v, want the error of a try that is made at once", err, time.Since(start))
		}
		bad.will(nil)
		must(t, r.waitSettled(t.Context(), bad, 1))
		if synctest.Wait(); bad.attempts.failed.Load() != 0 {
			t.Error("a settling that has succeeded counts as failed")
		}
		stop()
	})
}

// Where space was missing, the next try comes after a minute at most, and at once when there is
// enough more of it.
func TestSettlerRetryForSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		v.will(fails(ErrNoSpace))
		v.write(1)
		_, _ = v.freeze()
		v.b.reserved = 64 << 10
		start := time.Now()
		stop := r.start(t)
		time.Sleep(time.Hour)
		if n := len(v.waits(start)); n < 60 || n > 68 {
			t.Errorf("%d tries in an hour, want one a minute", n)
		}
		time.Sleep(time.Second)
		r.disk.free.Add(60 << 10)
		time.Sleep(2 * settlerTick)
		if n := len(v.waits(start)); n > 0 {
			t.Errorf("%d tries with less new space than settling may need", n)
		}
		r.disk.free.Add(4 << 10)
		time.Sleep(2 * settlerTick)
		if n := len(v.waits(start)); n != 1 {
			t.Errorf("%d tries with enough new space", n)
		}
		stop()
	})
}

// A tail whose settling has failed three times in a row is in the account of what is stuck until it
// settles: a write is refused, and waits no more. Each failure wakes those who wait.
func TestSettlerStuckTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		r.disk.free.Store(2 << 20)
		a := r.deps.space
		v := r.volume("v")
		v.will(fails(errors.New("no")))
		v.write(mib)
		a.commit(mib, 0)
		_, _ = v.freeze()
		stop := r.start(t)
		for n := int64(1); n <= settleTries; n++ {
			if err := a.look(4*mib, false); !errors.Is(err, ErrBusy) {
				t.Errorf("after %d failures: %v, want that the write waits", n-1, err)
			}
			for v.attempts.failed.Load() < n {
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			if v.woken != int(n) {
				t.Errorf("after %d failures: writers were woken %d times", n, v.woken)
			}
		}
		if err := a.look(4*mib, false); !errors.Is(err, ErrNoSpace) {
			t.Errorf("after %d failures: %v, want that the write is refused", settleTries, err)
		}
		v.will(nil)
		must(t, r.waitSettled(t.Context(), v, 1))
		if synctest.Wait(); a.stuckTails.Load() != 0 {
			t.Errorf("%d bytes are stuck that have settled", a.stuckTails.Load())
		}
		stop()
	})
}

// A waiter gets the error of a settling that began after the waiter came, and not that of one under
// way or before, which may have failed for what is over.
func TestSettlerWaiterGetsItsOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		v.write(1)
		_, _ = v.freeze()
		underWay, second := make(chan error), errors.New("second")
		v.will(func(ctx context.Context, _ uint64) error {
			select {
			case err := <-underWay:
				return err
			case <-ctx.Done(): // once more, since the waiter had asked again
				return ctx.Err()
			}
		})
		stop := r.start(t)
		synctest.Wait()
		time.Sleep(2 * settlerTick)
		waited := make(chan error)
		go func() { waited <- r.waitSettled(t.Context(), v, 1) }()
		synctest.Wait()
		underWay <- errors.New("first")
		synctest.Wait()
		time.Sleep(5 * time.Millisecond)
		select {
		case err := <-waited:
			t.Fatalf("the waiter got %v of a settling that began before", err)
		default:
		}
		underWay <- second // the waiter has it tried at once
		if err := <-waited; !errors.Is(err, second) || !strings.Contains(err.Error(), "volume v") {
			t.Errorf("the waiter got %v", err)
		}
		stop()
	})
}

// What ends a waiter, each without a settling: its context, the end of the store, a store that takes
// no writes, damage. A volume that was deleted has nothing left to wait for.
func TestSettlerWaiterEnds(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		end  func(*settlerRig, *fakeVolume, context.CancelFunc)
		want error
	}{
		"context":   {func(_ *settlerRig, _ *fakeVolume, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"close":     {func(r *settlerRig, _ *fakeVolume, _ context.CancelFunc) { close(r.closed) }, ErrClosed},
		"read-only": {func(r *settlerRig, _ *fakeVolume, _ context.CancelFunc) { _ = r.gate.fail(broken) }, ErrReadOnly},
		"damage": {func(_ *settlerRig, v *fakeVolume, _ context.CancelFunc) {
			v.mu.Lock()
			v.damage = broken
			v.mu.Unlock()
		}, broken},
		"deletion": {func(_ *settlerRig, v *fakeVolume, _ context.CancelFunc) { v.mu.Lock(); v.deleted = true; v.mu.Unlock() }, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newSettlerRig() // it does not run: nothing settles
			v := r.volume("v")
			v.write(1)
			_, _ = v.freeze()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			waited := make(chan error)
			go func() { waited <- r.waitSettled(ctx, v, 1) }()
			time.Sleep(time.Second)
			if r.awaited.Load() != 1 || v.attempts.wanted.Load() != 1 {
				t.Errorf("%s: %d callers wait, %d of them for the volume", name, r.awaited.Load(), v.attempts.wanted.Load())
			}
			c.end(r, v, cancel)
			if err := <-waited; !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			if r.awaited.Load() != 0 || v.attempts.wanted.Load() != 0 {
				t.Errorf("%s: callers wait that have given up", name)
			}
		})
	}
}

// A settling that Quiesce ends is no failure: it is not counted, nobody is woken, and the next
// settler begins it at once.
func TestSettlerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		v.write(1)
		_, _ = v.freeze()
		v.will(func(ctx context.Context, _ uint64) error { <-ctx.Done(); return ctx.Err() })
		stop := r.start(t)
		r.ask()
		synctest.Wait()
		r.take()
		stop()
		if n := v.attempts.failed.Load(); n != 0 || v.woken != 0 || v.attempts.last.Load() != nil {
			t.Errorf("a settling that was ended counts as failed (%d), writers were woken %d times", n, v.woken)
		}
		v.will(nil)
		stop = r.start(t)
		r.ask()
		synctest.Wait()
		if v.settled() != 1 {
			t.Error("the next settler does not go on")
		}
		stop()
	})
}

// No settling begins in a store that takes no writes; deletion under a settling is no failure.
func TestSettlerLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		v.write(1)
		_, _ = v.freeze()
		v.will(func(context.Context, uint64) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.deleted = true
			return ErrNotFound
		})
		stop := r.start(t)
		r.ask()
		synctest.Wait()
		if v.attempts.begun.Load() != 1 || v.attempts.failed.Load() != 0 {
			t.Errorf("begun %d times, failed %d: a deletion is a failure", v.attempts.begun.Load(), v.attempts.failed.Load())
		}
		_ = r.gate.fail(errors.New("no"))
		r.take()
		time.Sleep(time.Minute)
		if got := r.take(); len(got) > 0 {
			t.Errorf("in a store that takes no writes: %q", got)
		}
		stop()
	})
}

// A segment that can't be ended fails the settling that has filled it, but hides none of its own
// errors.
func TestSettlerSealError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		v.write(1)
		_, _ = v.freeze()
		sealed, settled := errors.New("seal"), errors.New("settle")
		r.sealErr = sealed
		v.will(fails(settled))
		stop := r.start(t)
		if err := r.waitSettled(t.Context(), v, 1); !errors.Is(err, settled) {
			t.Errorf("%v, want %v", err, settled)
		}
		v.will(nil)
		r.ask()
		must(t, r.waitSettled(t.Context(), v, 1)) // it has settled all the same
		synctest.Wait()
		if f := v.attempts.last.Load(); !errors.Is(f.err, sealed) {
			t.Errorf("the last failure is %v, want %v", f.err, sealed)
		}
		stop()
	})
}

// A volume whose erasures are counted lets the others settle in between, and goes on by itself.
func TestSettlerCountsInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v, other := r.volume("v"), r.volume("w")
		rounds := 3
		v.will(func(context.Context, uint64) error {
			if rounds--; rounds > 0 {
				return errCounting
			}
			return nil
		})
		for _, x := range []*fakeVolume{v, other} {
			x.write(1)
			_, _ = x.freeze()
		}
		r.take()
		stop := r.start(t)
		r.ask()
		synctest.Wait() // no time passes
		want := []string{"settle v 1", "seal", "settle w 1", "seal", "settle v 1", "seal", "settle v 1", "seal"}
		if got := r.take(); !slices.Equal(got, want) || v.attempts.failed.Load() != 0 {
			t.Errorf("%q, want %q; %d failures", got, want, v.attempts.failed.Load())
		}
		stop()
	})
}

// Settling gives way to requests, unless a caller waits or it presses, and never for longer than
// paceLongest; it ends with its context.
func TestSettlerPace(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(*settlerRig, *fakeVolume)
		want time.Duration
	}{
		"busy":         {func(*settlerRig, *fakeVolume) {}, paceLongest},
		"caller waits": {func(r *settlerRig, _ *fakeVolume) { r.awaited.Add(1) }, 0},
		"long tail":    {func(_ *settlerRig, v *fakeVolume) { v.write(101 * mib) }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newSettlerRig()
			r.deps.requests = func() uint64 { return r.requests.Add(1) }
			v := r.volume("v")
			c.act(r, v)
			start := time.Now()
			must(t, r.pace(t.Context(), v, paceBytes))
			if d := time.Since(start); d != c.want {
				t.Errorf("%s: gave way for %v, want %v", name, d, c.want)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := r.pace(ctx, v, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v after the end", name, err)
			}
		})
	}
}

// A job runs between two settlings, with its error for its caller, and again with the next settler
// if the first one ends under it.
func TestSettlerJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		v := r.volume("v")
		v.write(1)
		_, _ = v.freeze()
		settling := make(chan struct{})
		v.will(func(context.Context, uint64) error { <-settling; return nil })
		stop := r.start(t)
		r.ask()
		synctest.Wait()
		no := errors.New("no")
		done := make(chan error)
		go func() { done <- r.do(t.Context(), func(context.Context) error { r.called("job"); return no }) }()
		synctest.Wait()
		if got := r.take(); slices.Contains(got, "job") {
			t.Error("a job runs beside a settling")
		}
		close(settling)
		if err := <-done; !errors.Is(err, no) {
			t.Errorf("the job's caller got %v", err)
		}
		runs := 0
		go func() {
			done <- r.do(t.Context(), func(ctx context.Context) error {
				if runs++; runs == 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
		}()
		synctest.Wait()
		if r.awaited.Load() != 1 {
			t.Errorf("%d callers wait for the settler", r.awaited.Load())
		}
		stop()
		stop = r.start(t)
		if err := <-done; err != nil || runs != 2 {
			t.Errorf("a job whose settler has ended: %v after %d runs", err, runs)
		}
		stop()
	})
}

// What ends a job's caller.
func TestSettlerJobEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSettlerRig()
		stop := r.start(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.do(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller whose context has ended got %v", err)
		}
		stop()
		work := func(context.Context) error { t.Error("a job runs without a settler"); return nil }
		if err := r.do(ctx, work); !errors.Is(err, context.Canceled) {
			t.Errorf("without a settler: %v", err)
		}
		close(r.closed)
		if err := r.do(t.Context(), work); !errors.Is(err, ErrClosed) {
			t.Errorf("in a store that is closed: %v", err)
		}
		_ = r.gate.fail(errors.New("no"))
		if err := r.do(t.Context(), work); !errors.Is(err, ErrReadOnly) {
			t.Errorf("in a store that takes no writes: %v", err)
		}
		if n := r.awaited.Load(); n != 0 {
			t.Errorf("%d callers still wait", n)
		}
	})
}
