package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

// The I/O of a device that no process serves waits. What becomes of such a device:
//
//	another daemon serves it (devices.ErrForeign)       left to that daemon
//	it can never be served (devices.ErrUnfit)           removed: its I/O fails instead of waiting forever
//	the kernel does not answer (devices.ErrUnanswered)  kept, and retried; the kernel is asked nothing else about it
//	it failed, and is not open                          removed; attaching the volume again tells the user why
//	it failed, and is open                              kept, and retried after retryFirst, then after twice as long each time
//	this daemon ends                                    left to the next one, which does the same
//
// Each of these is logged, and varve stat shows what waits.
const (
	retryFirst   = 10 * time.Second
	retryLongest = 5 * time.Minute
)

// decide applies this to a device that cannot be served.
//
// REQUIRES: the caller has the volume's turn.
func (d *Daemon) decide(ctx context.Context, a protocol.Attachment, reason error) {
	log := d.log.With("volume", a.Volume, "device", a.Device)
	if errors.Is(reason, devices.ErrForeign) {
		log.Error("device is served by another daemon, and left to it", "error", reason)
		d.table.Forget(a)
		return
	}
	if errors.Is(reason, devices.ErrUnfit) {
		log.Error("device can never be served: it is removed, and its I/O fails", "error", reason)
		d.discard(ctx, a)
		d.table.Forget(a)
		return
	}
	why := "the kernel does not answer for the device: its I/O waits, and serving it is retried"
	if ctx.Err() == nil && !errors.Is(reason, devices.ErrUnanswered) {
		err := d.transports[a.Transport].Discard(ctx, a, false)
		if err == nil {
			log.Error("device failed and is not open: it is removed; attach the volume again", "error", reason)
			d.table.Forget(a)
			return
		}
		if !errors.Is(err, protocol.ErrBusy) {
			log.Error("failed device was not removed", "error", err)
		}
		why = "device failed and is in use: its I/O waits, and serving it is retried; varve detach --force removes it"
	}
	if other, taken := d.table.Taken(a.Volume); taken && other.Device != a.Device {
		d.table.NoteLeft(a.Volume)
		return // it was half removed, and the volume has another one
	}
	pause := d.postpone(a, reason)
	log.Error(why, "error", reason, "in", pause)
}

// postpone schedules the next try to serve a device, after a longer pause each time.
func (d *Daemon) postpone(a protocol.Attachment, reason error) time.Duration {
	w, pause, quit := d.table.Postpone(a, reason, d.retryFirst, retryLongest)
	if d.turns.over() {
		return pause // for the next daemon
	}
	d.later(pause, quit, func() { d.retry(w) })
	return pause
}

// later tries something again after a pause, unless quit is closed before.
func (d *Daemon) later(pause time.Duration, quit <-chan struct{}, again func()) {
	d.watchers.Go(func() {
		select {
		case <-quit:
		case <-time.After(pause):
			again()
		}
	})
}

// retry is one more try to serve a device that waits.
func (d *Daemon) retry(w *devices.Entry) {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	defer d.sweepScratch(ctx)
	ctx, give, err := d.turnOfEntry(ctx, w)
	if err != nil {
		return // the daemon ends
	}
	defer give()
	if d.table.StillWaits(w) {
		d.serveAgain(ctx, d.table.Describe(w))
	}
}

// serveAgain recovers a device whose service has failed.
//
// REQUIRES: the caller has the volume's turn.
func (d *Daemon) serveAgain(ctx context.Context, a protocol.Attachment) {
	dev, err := d.transports[a.Transport].Recover(ctx, a)
	if err != nil {
		d.decide(ctx, a, err)
		return
	}
	if ctx.Err() != nil { // the daemon ends
		d.leaveAgain(ctx, a, dev)
		return
	}
	d.keep(a, dev)
	d.log.Warn("device is served again", "volume", a.Volume, "device", a.Device)
}

// reviveAfter is how long a device must have been served to be served again at once after a
// failure.
const reviveAfter = 10 * time.Second

// lose moves a device whose service has ended by itself to Waiting, so that its volume stays taken
// until revive has dealt with it. It returns nil if this daemon has ended the service.
func (d *Daemon) lose(k *devices.Entry) *devices.Entry {
	w := d.table.Lose(k, devices.Cause(k.Dev))
	if w != nil {
		d.log.Warn("device ended unexpectedly", "volume", k.Volume, "device", k.Device)
	}
	return w
}

// revive serves a device again whose service has failed while the kernel holds its I/O.
func (d *Daemon) revive(k *devices.Entry, w *devices.Entry) {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	defer d.sweepScratch(ctx)
	ctx, give, err := d.turnOfEntry(ctx, w)
	if errors.Is(err, protocol.ErrStopping) {
		d.log.Error("device failed while the daemon ends: its I/O waits for the next one", "volume", w.Volume, "device", w.Device)
		return
	}
	if err != nil {
		d.log.Error("device failed", "volume", w.Volume, "device", w.Device, "error", err, "in", d.postpone(d.table.Describe(w), err))
		return
	}
	defer give()
	if !d.table.StillWaits(w) {
		return // detached meanwhile
	}
	a := d.table.Describe(w) // its volume may have been renamed
	log := d.log.With("volume", a.Volume, "device", a.Device)
	list, err := d.transports[a.Transport].Find(ctx, instance.Claims{Noted: []protocol.Attachment{a}})
	there := slices.ContainsFunc(list, func(f protocol.Attachment) bool { return f.Device == a.Device })
	if !there && err == nil {
		d.table.Forget(a) // gone for good
		return
	}
	if !there {
		log.Error("it is unknown whether the device waits for a server", "error", err, "in", d.postpone(a, err))
		return
	}
	tooSoon := time.Since(k.Began) < d.reviveAfter
	if tooSoon {
		d.decide(ctx, a, fmt.Errorf("it failed soon after its start: %w", devices.Cause(k.Dev)))
		return
	}
	d.serveAgain(ctx, a)
}

// detachWaiting removes a waiting device; with force also one that is open, whose I/O then fails.
func (d *Daemon) detachWaiting(ctx context.Context, a protocol.Attachment, force bool) error {
	err := d.transports[a.Transport].Discard(ctx, a, force)
	if errors.Is(err, protocol.ErrBusy) {
		return fmt.Errorf("%s (volume %q): %w: %s; its I/O waits for a server: start the daemon again, or use --force",
			a.Device, a.Volume, err, holders.OfDevice(a.Device))
	}
	if err != nil {
		return err
	}
	d.table.Forget(a)
	d.refreshLive(a.Volume)
	d.log.Info("detached", "volume", a.Volume, "device", a.Device, "force", force)
	return nil
}
