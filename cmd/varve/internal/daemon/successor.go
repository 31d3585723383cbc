package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/protocol"
)

// takeFrom takes over all devices from the predecessor, or fails, and mounts what was mounted. It
// discards nothing, and leaves the list on disk unchanged, as the predecessor may have to continue.
func (d *Daemon) takeFrom(ctx context.Context, p *handover.Predecessor) (*protocol.Upgraded, error) {
	s, err := devices.ReadList(d.files)
	if err != nil {
		return nil, err
	}
	s.Adopt(d.inst)
	s.Bind(d.inst, boot(d.log))
	s.Rename(d.renamed)
	d.table.Freeze(true)
	report := &protocol.Upgraded{
		From:    protocol.Process{PID: p.PID(), Version: p.Version()},
		To:      protocol.Process{PID: os.Getpid(), Version: d.version},
		Devices: make([]protocol.UpgradedDevice, len(p.Given.Devices)),
		Notes:   p.Given.Notes,
	}
	d.expectHanded(p.Given.Devices)
	errs := make([]error, len(p.Given.Devices))
	allSideBySide(len(errs), func(i int) { report.Devices[i], errs[i] = d.takeHanded(ctx, p.Given.Devices[i]) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if report.Targets, err = d.takeTargets(ctx, p.Given.Targets); err != nil {
		return nil, err
	}
	report.Pause = protocol.PausesOf(report.Devices)
	handed := map[string]bool{}
	for _, h := range p.Given.Devices {
		handed[h.Device] = true
	}
	d.leaveForeign(ctx, &s)
	there := d.takeWaiting(ctx, &s) // devices that the predecessor could not serve either
	maps.Copy(there, handed)
	for _, a := range s.Attached {
		if !there[a.Device] {
			d.discardGone(ctx, a)
		}
	}
	d.remount(ctx, s.Mounts, report)
	d.sweepScratch(ctx)
	d.table.Freeze(false)
	return report, nil
}

// remount mounts again what the predecessor had mounted, and reports it.
func (d *Daemon) remount(ctx context.Context, mounts []protocol.Mount, report *protocol.Upgraded) {
	var mu sync.Mutex // guards what follows, while a mount that takes too long goes on
	errs, ended := make([]error, len(mounts)), make([]bool, len(mounts))
	d.sideBySide(len(mounts), func(i int) {
		err := d.takeMount(ctx, mounts[i])
		mu.Lock()
		defer mu.Unlock()
		errs[i], ended[i] = err, true
	}, func(i int) {
		d.log.Error("store is not mounted again yet", "dir", mounts[i].Dir)
	})
	mu.Lock()
	defer mu.Unlock()
	for i, m := range mounts {
		switch {
		case !ended[i]:
			report.Notes = append(report.Notes, m.Dir+" is not mounted again yet")
		case errs[i] != nil:
			report.Notes = append(report.Notes, fmt.Sprintf("%s was not mounted again: %v", m.Dir, errs[i]))
		default:
			report.Mounts = append(report.Mounts, m.Dir)
		}
	}
}

// expectHanded enters the devices that are handed over into the table.
func (d *Daemon) expectHanded(handed []protocol.Handed) {
	list := make([]protocol.Attachment, len(handed))
	for i := range handed {
		h := &handed[i]
		if h.Mark == 0 && h.Transport == "ublk" { // from an older version, which has only old marks
			h.Mark = d.inst.OldMark(h.Volume)
		}
		list[i] = h.Attachment
	}
	d.table.Expect(list)
}

func (d *Daemon) takeHanded(ctx context.Context, h protocol.Handed) (protocol.UpgradedDevice, error) {
	u := protocol.UpgradedDevice{Volume: h.Volume, Device: h.Device}
	t := d.transports[h.Transport]
	if t == nil {
		return u, fmt.Errorf("%s (volume %q): unknown transport %q", h.Device, h.Volume, h.Transport)
	}
	dev, err := t.Recover(ctx, h.Attachment)
	if err != nil {
		return u, fmt.Errorf("%s (volume %q): %w", h.Device, h.Volume, err)
	}
	u.Pause = time.Duration(handover.Monotonic() - h.Quiesced).Seconds()
	d.keep(h.Attachment, dev)
	d.log.Info("device handed over", "volume", h.Volume, "device", h.Device, "pause", u.Pause)
	return u, nil
}

// abandon leaves the devices that were taken so far: the predecessor takes them back.
func (d *Daemon) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quiesceLimit)
	defer cancel()
	d.table.Freeze(true)
	if err := d.turns.end(ctx, 0); err != nil {
		d.log.Error("devices are left to the predecessor all the same", "error", err)
	}
	d.table.StopRetries()
	for _, k := range d.table.Served() {
		if err := d.leave(ctx, k); err != nil && !errors.Is(err, devices.ErrUnquiet) {
			d.log.Error("device was not left to the predecessor", "device", k.Device, "error", err)
		}
	}
	if _, err := d.quiesceTargets(ctx); err != nil {
		d.log.Error("devices were not left to the predecessor", "error", err)
	}
}
