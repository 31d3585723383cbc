package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

// releaseTimeout bounds the release of one device.
const releaseTimeout = 60 * time.Second

// serveStop releases devices and mounts, answers, and only then makes the daemon end.
func (d *Daemon) serveStop(w http.ResponseWriter, r *http.Request) {
	var req protocol.Stop
	if err := server.Decode(w, r, &req); err != nil {
		server.Refuse(w, err)
		return
	}
	if !d.isDaemon() {
		server.Refuse(w, protocol.ErrNeedsDaemon)
		return
	}
	if !req.Detach {
		if err := d.mayStop(); err != nil {
			server.Refuse(w, err)
			return
		}
	}
	ctx := context.WithoutCancel(r.Context()) // a stop is not left half done when the client disconnects
	server.Answer(w, http.StatusOK, d.Release(ctx, req.Detach))
	d.stopOnce.Do(func() { close(d.stop) })
}

// mayStop returns an error while a device is open that cannot wait for the next daemon.
func (d *Daemon) mayStop() error {
	for _, k := range d.table.Served() {
		if k.Transport == "loop" && k.Dev.Claimed() {
			return fmt.Errorf("%s (volume %q): %w: %s, and %w: unmount it first, or stop with --detach and its I/O fails",
				k.Device, k.Volume, protocol.ErrBusy, holders.OfDevice(k.Device), devices.ErrCannotLeave)
		}
	}
	return nil
}

// Release ends the service of devices and mounts, before the store is closed. Devices that are not
// open are detached; open ones are left to the next daemon if their kind can wait, and are
// otherwise detached by force. Unless detach is set, the next daemon attaches and mounts again what
// was. Release may be called again.
//
// Devices are released side by side, and one that is stuck delays no other.
func (d *Daemon) Release(ctx context.Context, detach bool) protocol.Stopped {
	s := parting{log: d.log, Stopped: protocol.Stopped{PID: os.Getpid()}}
	until, cancel := context.WithTimeout(ctx, endsTimeout)
	defer cancel()
	if err := d.turns.end(until, d.patience); err != nil {
		s.note(err.Error())
	}
	served, mounts := d.table.Served(), d.mounts.all()
	d.table.StopRetries()
	d.targets.stopRetries()

	d.table.RestoreLater(served, d.mounts.list(), detach)
	parts := make([]parting, len(served))
	var looks atomic.Int32
	allSideBySide(len(served), func(i int) {
		parts[i] = parting{log: d.log, looks: &looks}
		d.releaseDevice(ctx, served[i], detach, &parts[i])
	})
	for i := range parts {
		s.add(&parts[i])
	}
	d.releaseTargets(ctx, detach, &s)
	for _, k := range mounts {
		d.releaseMount(ctx, k, &s)
	}
	d.sweepScratch(ctx)
	for name, t := range d.transports {
		if err := t.Close(); err != nil {
			s.note(fmt.Sprintf("close %s: %v", name, err))
		}
	}
	return s.Stopped
}

// releaseMount unmounts, whether or not the mount is in use.
func (d *Daemon) releaseMount(ctx context.Context, k *mount, s *parting) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	unmount := func(force bool) error {
		return d.within(ctx, func() error { return d.mounts.unmount(k, force) }, nil)
	}
	err := unmount(false)
	if errors.Is(err, protocol.ErrBusy) {
		s.note(fmt.Sprintf("%s was in use (%s): what is open below it fails from now on", k.Dir, holders.OfMount(k.Dir)))
		err = unmount(true)
	}
	if err != nil {
		s.note(fmt.Sprintf("unmount %s: %v", k.Dir, err))
		return
	}
	s.Unmounted = append(s.Unmounted, k.Dir)
}

// parting collects what the answer to a stop reports, or the part of a device.
type parting struct {
	protocol.Stopped
	log   *slog.Logger
	looks *atomic.Int32 // for holders of devices, so far
}

// maxLooks is the number of devices whose holders a stop looks for: it must end soon, with any
// number of devices.
const maxLooks = 8

// add adds the part of a device.
func (p *parting) add(part *parting) {
	p.Notes = append(p.Notes, part.Notes...)
	p.Left = append(p.Left, part.Left...)
	p.Detached = append(p.Detached, part.Detached...)
}

func (p *parting) note(text string) {
	p.log.Warn("stopping: " + text)
	p.Notes = append(p.Notes, text)
}

func (d *Daemon) releaseDevice(ctx context.Context, k *devices.Entry, detach bool, s *parting) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	err := d.detach(ctx, k, detach)
	why := "is open"
	switch {
	case errors.Is(err, protocol.ErrBusy):
		if s.looks.Add(1) <= maxLooks {
			why = fmt.Sprintf("is open (%s)", holders.OfDevice(k.Device))
		}
	case err != nil:
		why = fmt.Sprintf("was not detached (%v)", err)
	}
	if err != nil {
		if err = d.leave(ctx, k); errors.Is(err, devices.ErrUnquiet) {
			d.log.Warn("device did not quiesce", "device", k.Device, "error", err)
			err = nil
		}
		if err == nil {
			s.Left = append(s.Left, d.table.Describe(k).Shown())
			s.note(fmt.Sprintf("%s (volume %q) %s: its I/O waits for the next daemon", k.Device, k.Volume, why))
			return
		}
	}
	if errors.Is(err, devices.ErrCannotLeave) {
		s.note(fmt.Sprintf("%s (volume %q) %s and %v: its I/O fails from now on", k.Device, k.Volume, why, err))
		err = d.detach(ctx, k, true)
	}
	if err != nil {
		s.note(err.Error())
		return
	}
	s.Detached = append(s.Detached, d.table.Describe(k).Shown())
}

// awaitEnds returns when no device or mount is watched any more. What Release could not end, and
// has reported, must not keep the store locked: it ends with the process.
func (d *Daemon) awaitEnds(limit time.Duration) error {
	ended := make(chan struct{})
	go func() {
		d.watchers.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
	}
	err := fmt.Errorf("devices or mounts have not ended in %v", limit)
	d.log.Error("closing the store anyway", "error", err)
	return err
}

// leave stops serving a device and keeps it in the list for the next daemon; also when it returns
// devices.ErrUnquiet.
func (d *Daemon) leave(ctx context.Context, k *devices.Entry) error {
	if !d.table.BeginDetach(k) {
		return nil // its service has just ended, and it waits already
	}
	err := k.Dev.Leave(ctx)
	if err != nil && !errors.Is(err, devices.ErrUnquiet) {
		d.table.Stay(k)
		return err
	}
	d.table.Leave(k)
	return err
}
