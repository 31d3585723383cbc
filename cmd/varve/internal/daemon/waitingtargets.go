package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/cmd/varve/internal/targets"
)

// waitingTarget is a device of an earlier daemon that this one could not take over so far. Taking it
// over is tried again after retryFirst, and then after twice as long each time.
type waitingTarget struct {
	targets.Record
	reason error
	pause  time.Duration
	next   time.Time     // of the next try
	quit   chan struct{} // closed when there is to be none
}

// wait enters a device that could not be taken over, with a longer pause each time. The channel is
// closed if there is to be no next try.
func (t *targetDevices) wait(r targets.Record, reason error, first time.Duration) (w *waitingTarget, quit <-chan struct{}) {
	w = &waitingTarget{Record: r, reason: reason, pause: first, quit: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.waiting[r.ID]; before != nil {
		w.pause = min(2*before.pause, retryLongest)
		before.end()
	}
	w.next = time.Now().Add(w.pause)
	if t.waiting == nil {
		t.waiting = map[int]*waitingTarget{}
	}
	t.waiting[r.ID] = w
	return w, w.quit
}

// end calls off the next try. It may be called again.
//
// REQUIRES: the caller holds the lock of the targetDevices.
func (w *waitingTarget) end() {
	if w.quit != nil {
		close(w.quit)
		w.quit = nil
	}
}

// waits reports whether a device still waits as it did.
func (t *targetDevices) waits(w *waitingTarget) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting[w.ID] == w
}

// drop forgets a device that waits: somebody serves it, or it is gone.
func (t *targetDevices) drop(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(id)
}

func (t *targetDevices) dropLocked(id int) {
	if w := t.waiting[id]; w != nil {
		w.end()
		delete(t.waiting, id)
	}
}

// stopRetries leaves the devices that wait to the next daemon.
func (t *targetDevices) stopRetries() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.waiting {
		w.end()
	}
}

// unplanned returns the devices that wait and are not tried again.
func (t *targetDevices) unplanned() []*waitingTarget {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*waitingTarget
	for _, id := range slices.Sorted(maps.Keys(t.waiting)) {
		if w := t.waiting[id]; w.quit == nil {
			list = append(list, w)
		}
	}
	return list
}

// shown returns the devices as users see them, in order of their numbers.
func (t *targetDevices) shown() []protocol.ServedTarget {
	list := []protocol.ServedTarget{}
	for _, k := range t.all() {
		list = append(list, k.shown())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.waiting {
		s := protocol.ServedTarget{Device: devicePath(w.ID), ID: w.ID, Target: w.Target, State: protocol.StateWaiting, Error: w.reason.Error()}
		if w.quit != nil {
			s.RetryAt = w.next
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b protocol.ServedTarget) int { return a.ID - b.ID })
	return list
}

// postponeTarget schedules the next try to take a device over.
func (d *Daemon) postponeTarget(r targets.Record, reason error) {
	w, quit := d.targets.wait(r, reason, d.retryFirst)
	if d.turns.over() {
		d.targets.stopRetries() // it is for the next daemon
		return
	}
	d.log.Error("a device of an earlier daemon was not taken over, and that is tried again", "device", devicePath(r.ID),
		"target", r.String(), "error", reason, "in", w.pause)
	d.later(w.pause, quit, func() { d.retryTarget(w) })
}

// retryTarget is one more try to take a device over.
func (d *Daemon) retryTarget(w *waitingTarget) {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	ctx, give, err := d.turns.take(ctx, d.turnOfNumber(w.ID))
	switch {
	case errors.Is(err, protocol.ErrStopping):
		d.targets.stopRetries()
		return
	case err != nil:
		d.postponeTarget(w.Record, err)
		return
	}
	defer give()
	if !d.targets.waits(w) {
		return // it was recovered by a command
	}
	r, known, err := targets.Noted(w.ID)
	if err == nil && (!known || r.Instance != w.Instance) {
		d.log.Info("a device that waited is not this daemon's any more", "device", devicePath(w.ID), "target", w.String())
		d.targets.drop(w.ID)
		return
	}
	if err == nil {
		err = d.takeTargetAgain(ctx, r)
	}
	if err != nil {
		d.postponeTarget(w.Record, err)
		return
	}
	d.targets.drop(w.ID)
	d.log.Warn("a device of an earlier daemon is served again", "device", devicePath(w.ID), "target", w.String())
}

// takeWaitingTarget takes a device over unless another process serves it meanwhile.
func (d *Daemon) takeWaitingTarget(ctx context.Context, r targets.Record) error {
	if i, err := blockdev.Peek(ctx, r.ID); err == nil && i.State == blockdev.StateLive && i.ServerAlive {
		return nil
	}
	return d.takeNow(ctx, r)
}

// devicePath is the node of a ublk device.
func devicePath(id int) string { return fmt.Sprintf("/dev/ublkb%d", id) }
