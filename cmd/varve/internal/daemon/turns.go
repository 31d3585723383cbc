package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
)

// turns orders the changes of devices and mounts. A change has the turns of what it changes: of a
// volume for the volume's device, of a directory for a mount. So there is one change of each at a
// time, and one that is stuck in the kernel delays no other.
//
// A change that waits for a turn gives up when its context ends, and so does one that has its turns
// when the daemon ends and does not wait for it any longer: it gets a context that ends then.
type turns struct {
	mu      sync.Mutex               // never held over I/O
	taken   map[string]chan struct{} // closed when the turn is given back; guarded by mu, like what follows
	ended   bool                     // there are no turns any more
	overdue context.Context          //nolint:containedctx // ends when changes that are under way are to give up
	giveUp  context.CancelFunc       // ends overdue
}

// Turns of a volume's device, a mount, and the store's identity.
func turnOf(volume string) string { return "volume " + volume }
func turnAt(dir string) string    { return "mount " + dir }

const turnOfIdentity = "the store's identity"

func newTurns() *turns {
	t := &turns{taken: map[string]chan struct{}{}}
	t.overdue, t.giveUp = context.WithCancel(context.Background())
	return t
}

// take waits until all the turns are free, and takes them until give is called. The change goes on
// with the context that take returns. protocol.ErrStopping: the daemon ends, or hands over.
func (t *turns) take(ctx context.Context, names ...string) (_ context.Context, give func(), err error) {
	for {
		busy, name, err := t.tryTake(names)
		if err != nil {
			return ctx, nil, err
		}
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx, nil, protocol.As(protocol.ErrBusy, fmt.Errorf("another change of %s is under way: %w", name, ctx.Err()))
		}
	}
	t.mu.Lock()
	overdue := t.overdue
	t.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(overdue, cancel)
	return ctx, func() {
		stop()
		cancel()
		t.give(names)
	}, nil
}

// tryTake takes all the turns, or none if one of them is taken: it then returns the name of that
// one and a channel that is closed when it is given back.
func (t *turns) tryTake(names []string) (busy chan struct{}, name string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, "", protocol.ErrStopping
	}
	for _, name := range names {
		if busy := t.taken[name]; busy != nil {
			return busy, name, nil
		}
	}
	for _, name := range names {
		t.taken[name] = make(chan struct{})
	}
	return nil, "", nil
}

func (t *turns) give(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		if c := t.taken[name]; c != nil { // a name may be there twice
			close(c)
			delete(t.taken, name)
		}
	}
}

// isTaken reports whether a turn is taken.
func (t *turns) isTaken(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken[name] != nil
}

// over reports whether there are no turns any more: no device or mount begins.
func (t *turns) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// end refuses further turns, and returns when those that are taken have been given back. After
// patience it ends the contexts of changes that are still under way. If they are under way when ctx
// ends, it returns an error with their names.
func (t *turns) end(ctx context.Context, patience time.Duration) error {
	t.mu.Lock()
	t.ended = true
	giveUp := t.giveUp
	t.mu.Unlock()
	defer time.AfterFunc(patience, giveUp).Stop()
	for {
		busy, names := t.underWay()
		if busy == nil {
			giveUp()
			return nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			giveUp()
			return protocol.As(protocol.ErrBusy, fmt.Errorf("changes are under way that do not end: %s", strings.Join(names, ", ")))
		}
	}
}

// underWay returns the turns that are taken, and a channel that is closed when one of them is given
// back; nil: there are none.
func (t *turns) underWay() (busy chan struct{}, names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, c := range t.taken {
		busy, names = c, append(names, name)
	}
	slices.Sort(names)
	return busy, names
}

// resume undoes end.
func (t *turns) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = false
	t.overdue, t.giveUp = context.WithCancel(context.Background())
}

// turnOfEntry takes the turn of a device's volume, which may be renamed meanwhile.
func (d *Daemon) turnOfEntry(ctx context.Context, e *devices.Entry) (context.Context, func(), error) {
	for {
		volume := d.table.Describe(e).Volume
		turn, give, err := d.turns.take(ctx, turnOf(volume))
		if err != nil || d.table.Describe(e).Volume == volume {
			return turn, give, err
		}
		give()
	}
}

// errUnanswered is the error of a call that goes on in the background, see within.
var errUnanswered = errors.New("the kernel has not answered yet")

// within calls f, which may wait for the kernel without end, and returns what f does, or
// errUnanswered when ctx ends before. f then goes on, and late, if it is set, is called with its
// error. Run waits for it.
func (d *Daemon) within(ctx context.Context, f func() error, late func(error)) error {
	done := make(chan error)
	d.watchers.Go(func() {
		err := f()
		select {
		case done <- err:
			return
		case <-ctx.Done():
		}
		if late != nil {
			late(err)
		}
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(errUnanswered, ctx.Err())
	}
}
