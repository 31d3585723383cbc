package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

// A device that nobody serves has its I/O wait. What becomes of it:
//
//	another daemon serves it (errForeign)    left to that for good
//	nobody will ever serve it (errUnfit)     removed: whoever waits gets an error, and not nothing for ever
//	it failed, and nobody has it open        removed; attaching the volume again tells its user why
//	it failed, and is open                   kept, and tried again after retryFirst, then twice as long each time
//	this daemon ends                         kept for the next one, which does the same
//
// Each is in the log, and what waits is in varve stat.
const (
	retryFirst   = 10 * time.Second
	retryLongest = 5 * time.Minute
)

// waiter is a device that nobody serves.
type waiter struct {
	protocol.Attachment
	reason error         // why; nil: it is for the next daemon
	pause  time.Duration // before the next try
	next   time.Time
	quit   chan struct{} // closed when there is no next try; nil: there was to be none
}

// shown is what lists say of it.
func (w *waiter) shown() protocol.Attachment {
	a := w.Attachment
	a.State = protocol.StateWaiting
	if w.reason != nil {
		a.Error = w.reason.Error()
	}
	if w.quit != nil {
		a.RetryAt = w.next.UTC().Truncate(time.Second)
	}
	return a
}

// decide settles what becomes of a device that can't be served; change is held.
func (d *Daemon) decide(ctx context.Context, a protocol.Attachment, reason error) {
	log := d.log.With("volume", a.Volume, "device", a.Device)
	if errors.Is(reason, errForeign) {
		log.Error("device is served by another daemon, whose it stays", "error", reason)
		d.forget(a)
		return
	}
	if errors.Is(reason, errUnfit) {
		log.Error("device can't be served, now or later: removing it, and its I/O fails", "error", reason)
		d.discard(ctx, a)
		d.forget(a)
		return
	}
	err := d.transports[a.Transport].Discard(ctx, a, false)
	if err == nil {
		log.Error("device failed, and nobody has it open: it is removed; attach the volume again", "error", reason)
		d.forget(a)
		return
	}
	if !errors.Is(err, protocol.ErrBusy) {
		log.Error("device that failed is not removed", "error", err)
	}
	pause := d.postpone(a, reason)
	log.Error("device failed and is in use: its I/O waits, and serving it is tried again; varve detach --force gives it up",
		"error", reason, "in", pause)
}

// forget drops a device from the lists.
func (d *Daemon) forget(a protocol.Attachment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.waiting[a.Volume]; w != nil && w.Device != a.Device {
		return // another device of the volume waits
	}
	d.unwait(a.Volume)
	d.save()
}

// unwait ends the waiting of a volume's device, if it waits; mu is held.
func (d *Daemon) unwait(volume string) {
	if w := d.waiting[volume]; w != nil && w.quit != nil {
		close(w.quit)
	}
	delete(d.waiting, volume)
}

// postpone has a device be tried again, later each time.
func (d *Daemon) postpone(a protocol.Attachment, reason error) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := &waiter{Attachment: a, reason: reason, pause: d.retryFirst, quit: make(chan struct{})}
	if before := d.waiting[a.Volume]; before != nil && before.quit != nil {
		w.pause = min(2*before.pause, retryLongest)
	}
	w.next = time.Now().Add(w.pause)
	d.unwait(a.Volume)
	d.waiting[a.Volume] = w
	d.save()
	if d.stopping {
		return w.pause // for the next daemon
	}
	quit := w.quit
	d.watchers.Go(func() {
		select {
		case <-quit:
		case <-time.After(w.pause):
			d.retry(w)
		}
	})
	return w.pause
}

// stopRetries leaves what waits to the next daemon.
func (d *Daemon) stopRetries() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waiting {
		if w.quit != nil {
			close(w.quit)
			w.quit = nil
		}
	}
}

// retry is one more try to serve a device that waits.
func (d *Daemon) retry(w *waiter) {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	d.change.Lock()
	defer d.change.Unlock()
	defer d.sweepScratch(ctx)
	d.mu.Lock()
	still := d.waiting[w.Volume] == w && !d.stopping
	d.mu.Unlock()
	if !still {
		return
	}
	d.serveAgain(ctx, w.Attachment)
}

// serveAgain takes back a device whose service has failed; change is held.
func (d *Daemon) serveAgain(ctx context.Context, a protocol.Attachment) {
	dev, err := d.transports[a.Transport].Recover(ctx, a)
	if err != nil {
		d.decide(ctx, a, err)
		return
	}
	d.keep(a, dev)
	d.log.Warn("device is served again", "volume", a.Volume, "device", a.Device)
}

// reviveAfter is how long a device has to have lived to be served again at once when its service failed.
const reviveAfter = 10 * time.Second

// lose notes that a device is not served any more, and not by our doing. It waits until revive has seen to it, so that
// nobody takes its volume meanwhile; mu is held.
func (d *Daemon) lose(k *attachment) *waiter {
	d.log.Warn("device went away, and not by our doing", "volume", k.Volume, "device", k.Device)
	w := &waiter{Attachment: k.Attachment, reason: cause(k.dev)}
	delete(d.attached, k.Volume)
	d.waiting[k.Volume] = w
	d.save()
	return w
}

// revive serves a device again whose service has failed while the kernel keeps its I/O.
func (d *Daemon) revive(k *attachment, w *waiter) {
	ctx, cancel := context.WithTimeout(context.Background(), server.RequestTimeout)
	defer cancel()
	d.change.Lock()
	defer d.change.Unlock()
	defer d.sweepScratch(ctx)
	log := d.log.With("volume", k.Volume, "device", k.Device)
	d.mu.Lock()
	still, stopping := d.waiting[k.Volume] == w, d.stopping
	d.mu.Unlock()
	if !still {
		return // detached meanwhile
	}
	list, err := d.transports[k.Transport].Find(ctx, instance.Claims{Volumes: []string{k.Volume}, Noted: []protocol.Attachment{k.Attachment}})
	there := slices.ContainsFunc(list, func(a protocol.Attachment) bool { return a.Device == k.Device })
	if !there && err == nil {
		d.forget(k.Attachment) // gone for good
		return
	}
	if stopping {
		log.Error("device failed while the daemon ends: its I/O waits for the next one")
		return
	}
	if !there {
		log.Error("whether the device waits for a server is unknown", "error", err, "in", d.postpone(k.Attachment, err))
		return
	}
	tooSoon := time.Since(k.began) < d.reviveAfter
	if tooSoon {
		d.decide(ctx, k.Attachment, fmt.Errorf("it failed soon after its start: %w", cause(k.dev)))
		return
	}
	d.serveAgain(ctx, k.Attachment)
}

// cause is why the service of a device has ended.
func cause(dev device) error {
	if err := dev.Err(); err != nil {
		return err
	}
	return errors.New("its service ended without an error")
}

// findWaiting is find for devices that nobody serves.
func (d *Daemon) findWaiting(target, node string) (protocol.Attachment, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waiting {
		if w.Volume == target || w.Device == node {
			return w.Attachment, true
		}
	}
	return protocol.Attachment{}, false
}

// detachWaiting removes a device that nobody serves: by force also one that is open, whose I/O then fails.
func (d *Daemon) detachWaiting(ctx context.Context, a protocol.Attachment, force bool) error {
	err := d.transports[a.Transport].Discard(ctx, a, force)
	if errors.Is(err, protocol.ErrBusy) {
		return fmt.Errorf("%s (volume %q): %w: %s; its I/O waits for a server: start the daemon again, or use --force",
			a.Device, a.Volume, err, holders.OfDevice(a.Device))
	}
	if err != nil {
		return err
	}
	d.forget(a)
	d.refreshLive(a.Volume)
	d.log.Info("detached", "volume", a.Volume, "device", a.Device, "force", force)
	return nil
}
