package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
)

// Time limits before a handover. They are short while I/O waits.
const (
	settleLimit  = 5 * time.Second // for settling before it: what has settled is not replayed
	settleRounds = 3
	quickRound   = 200 * time.Millisecond // a round of settling this short leaves nothing worth another
	quiesceLimit = 5 * time.Second
)

// serveHandover answers a successor, and passes it to run when it is ready. The daemon goes on
// unchanged.
func (d *Daemon) serveHandover(w http.ResponseWriter, r *http.Request) {
	next, err := handover.Accept(w, r, d.version, d.log)
	if err != nil {
		d.log.Warn("no upgrade", "error", err)
	}
	if next == nil {
		return
	}
	if err := d.mayBegin(next); err != nil {
		d.log.Warn("no upgrade", "error", errors.Join(err, next.Decline(err)))
		return
	}
	offer := protocol.Offer{
		Version: d.version, PID: os.Getpid(), Flags: d.flags, Devices: d.table.Attachments(), Mounts: d.mounts.list(),
	}
	if err := next.Offer(offer); err != nil {
		d.log.Warn("no upgrade", "error", err)
		d.handing.Store(false)
		return
	}
	d.successors <- next // one at a time: there is room
}

// mayBegin returns an error if the successor could not serve what this daemon serves, or during
// another handover.
func (d *Daemon) mayBegin(next *handover.Successor) error {
	if err := d.mayHandOver(next.Hello); err != nil {
		return err
	}
	if !d.handing.CompareAndSwap(false, true) {
		return protocol.As(protocol.ErrBusy, errors.New("another upgrade is under way"))
	}
	return nil
}

// mayHandOver returns an error if the successor could not serve what this daemon serves.
func (d *Daemon) mayHandOver(h protocol.Hello) error {
	st, err := d.store.Stat()
	if err != nil {
		return err
	}
	if st.ReadOnly != "" {
		return fmt.Errorf("the store accepts no writes (%s): opened again, it has what was flushed last, and not what its "+
			"devices' users believe; unmount them, then varve stop", st.ReadOnly)
	}
	if d.turns.over() {
		return protocol.ErrStopping
	}
	for _, k := range d.table.Served() {
		if k.Mark != 0 && k.Mark != d.inst.OldMark(k.Volume) && !h.Marks {
			return protocol.As(protocol.ErrBusy, fmt.Errorf("%s (volume %q) was attached by version %s, and version %s can't take "+
				"it over; detach it first", k.Device, k.Volume, d.version, h.Version))
		}
		if k.Transport != "ublk" {
			return protocol.As(protocol.ErrBusy, fmt.Errorf("%s (volume %q) is a %s device, and %w; detach it first",
				k.Device, k.Volume, k.Transport, devices.ErrCannotLeave))
		}
	}
	if err := d.mayHandOverTargets(h); err != nil {
		return err
	}
	for _, m := range d.mounts.all() {
		if !h.Remount && m.m.Busy() {
			return mountBusy(m.Dir)
		}
	}
	return nil
}

func mountBusy(dir string) error {
	return fmt.Errorf("%s: %w: %s; what is open below a mount cannot be handed over: close it first, or use --remount "+
		"and it fails", dir, protocol.ErrBusy, holders.OfMount(dir))
}

// prepare settles and flushes the store while I/O continues. After an error everything is as
// before.
func (d *Daemon) prepare(ctx context.Context, next *handover.Successor) error {
	if err := d.mayHandOver(next.Hello); err != nil { // the socket is silent now: nothing changes any more
		return err
	}
	until, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for range settleRounds {
		began := time.Now()
		if err := d.store.Settle(until); err != nil {
			if until.Err() == nil {
				d.log.Warn("volumes do not settle before the upgrade; their journals are replayed", "error", err)
			}
			break
		}
		if time.Since(began) < quickRound || !next.Alive() {
			break
		}
	}
	err := d.store.Quiesce()
	if err == nil && ctx.Err() != nil {
		err = errors.New("got a signal to stop")
	}
	if err == nil && !next.Alive() {
		err = handover.ErrClosed
	}
	if err != nil {
		d.store.Resume()
	}
	return err
}

// letGo unmounts, and leaves the devices to the process that opens the store next. If a mount
// cannot be unmounted, it returns an error, and everything is as before. Later failures are noted
// in next, and this daemon then opens the store again. The list of devices and mounts stays on disk
// unchanged, for either of them.
func (d *Daemon) letGo(ctx context.Context, next *handover.Successor) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quiesceLimit)
	defer cancel()
	if err := d.turns.end(ctx, d.patience); err != nil {
		d.stay(ctx, nil)
		return err
	}
	d.table.Freeze(true)
	mounts := d.mounts.all()
	for i, k := range mounts { // first: it can be taken back
		if err := d.letGoMount(ctx, k, next); err != nil {
			d.stay(ctx, mounts[:i])
			return err
		}
	}
	d.table.StopRetries()
	d.quiesce(ctx, next, d.table.Served()) // even if it is for ourselves: the store is closed in any case
	var err error
	if next.Given.Targets, err = d.quiesceTargets(ctx); err != nil {
		next.Fail(fmt.Errorf("quiesce: %w", err))
	}
	for name, t := range d.transports {
		if err := t.Close(); err != nil {
			d.log.Warn("close transport", "transport", name, "error", err)
		}
	}
	return nil
}

func (d *Daemon) letGoMount(ctx context.Context, k *mount, next *handover.Successor) error {
	unmount := func(force bool) error {
		return d.within(ctx, func() error { return d.mounts.unmount(k, force) }, func(err error) {
			if err == nil { // behind the end of the upgrade, which was called off
				err = d.mount(context.WithoutCancel(ctx), k.Mount)
			}
			d.log.Warn("a mount was unmounted too late for an upgrade, and is mounted again", "dir", k.Dir, "error", err)
		})
	}
	err := unmount(false)
	if errors.Is(err, protocol.ErrBusy) {
		if !next.Hello.Remount {
			return mountBusy(k.Dir) // since it was looked at
		}
		next.Given.Notes = append(next.Given.Notes, fmt.Sprintf("%s was in use (%s): what was open below it fails", k.Dir, holders.OfMount(k.Dir)))
		err = unmount(true)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", k.Dir, err)
	}
	return nil
}

// stay undoes letGo, and mounts again what was unmounted.
func (d *Daemon) stay(ctx context.Context, gone []*mount) {
	d.turns.resume()
	for _, k := range gone {
		if err := d.mount(context.WithoutCancel(ctx), k.Mount); err != nil {
			d.log.Error("store was not mounted again", "dir", k.Dir, "error", err)
		}
	}
	d.table.Freeze(false)
	for _, w := range d.table.Unplanned() { // what the upgrade has interrupted
		d.postpone(d.table.Describe(w), devices.ErrUnanswered)
	}
	for _, w := range d.targets.unplanned() {
		d.postponeTarget(w.Record, w.reason)
	}
	d.store.Resume()
}

// quiesce makes the I/O of all devices wait, concurrently.
func (d *Daemon) quiesce(ctx context.Context, next *handover.Successor, list []*devices.Entry) {
	handed := make([]protocol.Handed, len(list))
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, k := range list {
		wg.Go(func() {
			handed[i] = protocol.Handed{Attachment: d.table.Describe(k), Quiesced: handover.Monotonic()}
			errs[i] = d.leave(ctx, k)
		})
	}
	wg.Wait()
	next.Given.Devices = handed
	if err := errors.Join(errs...); err != nil {
		next.Fail(fmt.Errorf("quiesce: %w", err))
	}
}
