package objstore

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// settlerRig is a settler without a store: its volumes are fakeVolumes, its space account is over a
// fakeDisk, and its clock is that of the test's bubble.
type settlerRig struct {
	*settler
	gate     fakeGate
	disk     fakeDisk
	requests atomic.Uint64
	filling  atomic.Bool
	repairs  atomic.Int64
	ticks    atomic.Int64
	closed   chan struct{}

	mu      sync.Mutex
	volumes []settleable
	calls   []string
	sealErr error
}

// newSettlerRig returns a settler that has been open for longer than openingGrace, with 1 GiB of
// space and a settle delay of a second.
func newSettlerRig() *settlerRig {
	r := &settlerRig{closed: make(chan struct{})}
	began := time.Now().Add(-time.Hour)
	r.disk.free.Store(1 << 30)
	r.settler = newSettler(settlerDeps{
		volumes: func() []settleable {
			r.mu.Lock()
			defer r.mu.Unlock()
			return slices.Clone(r.volumes)
		},
		gate: &r.gate, space: r.disk.account(1<<30, 1<<20, 0), requests: r.requests.Load, filling: r.filling.Load, repairs: r.repairs.Load,
		seal: func() error {
			r.called("seal")
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.sealErr
		},
		housekeep: func() { r.ticks.Add(1) },
		makeRoom:  func(int64) bool { return false },
		uptime:    func() time.Duration { return time.Since(began) },
		closed:    r.closed, delay: time.Second, tailSoft: 100 * mib, log: slog.New(slog.DiscardHandler),
	})
	return r
}

// start runs the settler until the returned function is called, which waits for its end.
func (r *settlerRig) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.run(ctx) }()
	return func() { cancel(); <-ended }
}

func (r *settlerRig) called(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, what)
}

// take returns what was called since the last take.
func (r *settlerRig) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// volume adds a volume that has nothing to settle.
func (r *settlerRig) volume(name string) *fakeVolume {
	v := &fakeVolume{r: r, name: name, next: 1}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.volumes = append(r.volumes, v)
	return v
}

// fakeGate is a gate that a test opens and closes.
type fakeGate struct{ failed atomic.Pointer[error] }

func (g *fakeGate) writeError() error {
	if p := g.failed.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, *p)
	}
	return nil
}

func (g *fakeGate) fail(err error) error {
	g.failed.CompareAndSwap(nil, &err)
	return fmt.Errorf("%w: %w", ErrReadOnly, err)
}

func (g *fakeGate) spaceError(err error) error { return err }

// fakeVolume is something to settle, whose settlings do what the test says.
type fakeVolume struct {
	r        *settlerRig
	name     string
	attempts settleAttempts

	mu      sync.Mutex
	frozen  []uint64 // generations
	next    uint64   // generation of the active layer
	base    uint64
	b       backlog // but frozen and layers
	settle  func(ctx context.Context, gen uint64) error
	deleted bool
	damage  error
	stuck   bool
	woken   int
	times   []time.Time // at which settlings began
}

func (v *fakeVolume) Name() string                    { return v.name }
func (v *fakeVolume) settleAttempts() *settleAttempts { return &v.attempts }

func (v *fakeVolume) backlog() backlog {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := v.b
	b.frozen, b.layers = len(v.frozen), len(v.frozen)+1
	return b
}

func (v *fakeVolume) reached(gen uint64) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.base >= gen || v.deleted, v.damage
}

func (v *fakeVolume) gone() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.deleted
}

// settled returns the generation that the base holds.
func (v *fakeVolume) settled() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.base
}

func (v *fakeVolume) activateLater() {}

func (v *fakeVolume) freeze() (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.b.fresh {
		v.r.called(fmt.Sprintf("freeze %s %d", v.name, v.next))
		v.frozen = append(v.frozen, v.next)
		v.next++
		v.b.fresh = false
	}
	return v.next - 1, nil
}

func (v *fakeVolume) settleOldest(ctx context.Context) error {
	v.mu.Lock()
	gen, settle := v.frozen[0], v.settle
	v.times = append(v.times, time.Now())
	v.mu.Unlock()
	v.r.called(fmt.Sprintf("settle %s %d", v.name, gen))
	if settle != nil {
		if err := settle(ctx, gen); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frozen, v.base = v.frozen[1:], gen
	return nil
}

func (v *fakeVolume) rest() error { return nil }

func (v *fakeVolume) setStuck(stuck bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stuck != stuck {
		n := map[bool]int64{true: 1, false: -1}[stuck]
		v.r.deps.space.stuck(n*v.b.tail, n*v.b.reserved)
	}
	v.stuck = stuck
}

func (v *fakeVolume) wakeWriters() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.woken++
}

// write makes the active layer one that has to settle, with n bytes more in the tail.
func (v *fakeVolume) write(n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.b.tail += n
	if !v.b.fresh {
		v.b.fresh, v.b.since = true, v.r.deps.uptime()
	}
}

// will says what the next settlings do.
func (v *fakeVolume) will(settle func(ctx context.Context, gen uint64) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.settle = settle
}

// waits returns the time that passed before each settling since the last call, from the one before
// it, or from since for the first one.
func (v *fakeVolume) waits(since time.Time) []time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []time.Duration
	for _, at := range v.times {
		out = append(out, at.Sub(since))
		since = at
	}
	v.times = nil
	return out
}

// fails returns what a settling does that ends with an error.
func fails(err error) func(context.Context, uint64) error {
	return func(context.Context, uint64) error { return err }
}
