package daemon

import (
	"context"
	"fmt"
	"slices"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore/failpoint"
)

// Takeover finds the devices and mounts of the daemon before this one: devices that wait are served again, what
// is left of those that are gone is reported and removed, mounts that died are mounted again.
func (d *Daemon) Takeover(ctx context.Context) {
	s, err := readState(d.files)
	if err != nil {
		d.log.Error("the list of an earlier daemon's devices and mounts is lost", "error", err)
		s = state{}
	}
	if s.Boot != bootID() {
		for _, a := range slices.Concat(s.Attached, s.Restore) {
			d.log.Info("was attached before the machine started; attach it again", "volume", a.Volume)
		}
	}
	s.bind(d.inst, bootID())
	d.mu.Lock()
	d.restore = restoration{devices: s.Restore, mounts: s.Mounts} // in the list until it is done: this daemon may die
	d.mu.Unlock()
	failpoint.Here(failpoint.TakeoverRead)
	d.change.Lock()
	defer d.change.Unlock()
	d.leaveForeign(ctx, &s)
	waits := d.takeWaiting(ctx, &s)
	d.discardGone(ctx, s.Attached, waits)
	for _, v := range s.Starting {
		// Its ublk device was found, if there was one; a loop device is known by the volume.
		left := protocol.Attachment{Volume: v, Transport: "loop"}
		if s.old {
			left.Mark = d.inst.oldMark(v)
		}
		d.discard(ctx, left)
	}
	d.sweepScratch(ctx)
	d.attachRestored(ctx, s.Restore)
	for _, m := range s.Mounts {
		_ = d.takeMount(m) // logged
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.restore = restoration{} // what could not be brought back is in the log
	d.save()
}

// takeWaiting takes over what waits, by what the kernel says, whether or not it is in the state: a daemon may have
// died before it wrote that. It gives the devices that it found.
func (d *Daemon) takeWaiting(ctx context.Context, s *state) map[string]bool {
	found := map[string]bool{}
	for name, t := range d.transports {
		list, err := t.Find(ctx, s.claims())
		if err != nil {
			d.log.Error("not all devices are known; those that an earlier daemon has noted are tried", "transport", name, "error", err)
			list = andNoted(list, s.Attached, name)
			d.unlisted = true
		}
		for _, a := range list {
			found[a.Device] = true
			if d.served(a) {
				continue // it was handed over
			}
			for _, k := range s.Attached {
				if k.Volume == a.Volume && k.Device == a.Device {
					a.Since, a.MountedAt = k.Since, k.MountedAt
				}
			}
			dev, err := t.Recover(ctx, a)
			if err != nil {
				d.decide(ctx, a, fmt.Errorf("take over from an earlier daemon: %w", err))
				continue
			}
			if slices.Contains(s.Starting, a.Volume) {
				d.scanPartitions(ctx, a, dev) // logged
			}
			d.keep(a, dev)
			d.log.Info("device of an earlier daemon taken over", "volume", a.Volume, "device", a.Device)
		}
	}
	return found
}

// andNoted adds the devices that a state has noted: what could not be asked for must not be taken for gone.
func andNoted(list, noted []protocol.Attachment, transport string) []protocol.Attachment {
	for _, a := range noted {
		known := slices.ContainsFunc(list, func(k protocol.Attachment) bool { return k.Device == a.Device })
		if a.Transport == transport && !known {
			list = append(list, a)
		}
	}
	return list
}

// served says whether we serve a device already.
func (d *Daemon) served(a protocol.Attachment) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.attached[a.Volume]
	return k != nil && k.Device == a.Device
}

// discardGone removes what is left of the devices of an earlier daemon that are not there any more.
func (d *Daemon) discardGone(ctx context.Context, list []protocol.Attachment, there map[string]bool) {
	for _, a := range list {
		if !there[a.Device] {
			d.log.Warn("device of an earlier daemon is gone; attach the volume again", "volume", a.Volume, "device", a.Device)
			d.discard(ctx, a)
		}
	}
}

// discard removes what is left of a device that nobody can serve any more; change is held.
func (d *Daemon) discard(ctx context.Context, a protocol.Attachment) {
	log := d.log.With("volume", a.Volume, "device", a.Device)
	t := d.transports[a.Transport]
	if t == nil {
		log.Error("device may be left over", "error", fmt.Sprintf("unknown transport %q", a.Transport))
		return
	}
	if err := t.Discard(ctx, a, true); err != nil {
		log.Error("device is left over", "error", err)
		d.left = append(d.left, a.Volume)
	}
}

func (d *Daemon) takeMount(m protocol.Mount) error {
	log := d.log.With("dir", m.Dir)
	stale, err := dropStaleMount(m.Dir)
	if err != nil {
		log.Error("mount of an earlier daemon is left over", "error", err)
		return err
	}
	if d.mounter == nil {
		return nil
	}
	err = checkMountPoint(d.place(), m.Dir)
	if err == nil {
		err = d.mount(m)
	}
	if err != nil {
		log.Error("mount of an earlier daemon was not mounted again", "error", err)
		return err
	}
	log.Info("mount of an earlier daemon mounted again", "was_stale", stale)
	return nil
}
