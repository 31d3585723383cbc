package daemon

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/failpoint"
)

// Takeover restores what the previous daemon served: waiting devices are served again, leftovers of
// devices that are gone are reported and removed, and dead mounts are mounted again.
func (d *Daemon) Takeover(ctx context.Context) {
	s, err := devices.ReadList(d.files)
	if err != nil {
		d.log.Error("the list of an earlier daemon's devices and mounts is lost", "error", err)
	}
	if s.Boot != boot(d.log) {
		for _, a := range slices.Concat(s.Attached, s.Restore) {
			d.log.Info("was attached before the machine started; attach it again", "volume", a.Volume)
		}
	}
	s.Bind(d.inst, boot(d.log))
	s.Rename(d.renamed)
	d.table.Inherit(&s) // this daemon may die before all of it is served
	failpoint.Here(failpoint.TakeoverRead)
	d.change.Lock()
	defer d.change.Unlock()
	d.leaveForeign(ctx, &s)
	waits := d.takeWaiting(ctx, &s)
	d.discardGone(ctx, s.Attached, waits)
	for _, v := range s.Starting {
		// Its ublk device was found, if there was one; a loop device is known by the volume.
		left := protocol.Attachment{Volume: v, Transport: "loop"}
		if s.Old() {
			left.Mark = d.inst.OldMark(v)
		}
		d.discard(ctx, left)
	}
	d.table.Settled()
	d.sweepScratch(ctx)
	d.attachRestored(ctx, s.Restore)
	for _, m := range s.Mounts {
		_ = d.takeMount(m) // logged
	}
	d.table.Restored() // what could not be brought back is in the log
}

// maxRecoveries is the number of devices that are taken over concurrently. A recovery mostly waits
// for the kernel, and takes some threads meanwhile.
const maxRecoveries = 32

// takeSideBySide calls take(0) to take(n-1), at most maxRecoveries at a time, and returns when all
// have returned.
func takeSideBySide(n int, take func(i int)) {
	var g errgroup.Group
	g.SetLimit(maxRecoveries)
	for i := range n {
		g.Go(func() error { take(i); return nil })
	}
	_ = g.Wait() // take has no error
}

// takeWaiting takes over the waiting devices that the kernel reports, whether or not they are in
// the list: a daemon may have died before it wrote the list. It returns the devices that it found;
// change is held.
//
// The list has all of them before the first is recovered, in case this daemon dies.
func (d *Daemon) takeWaiting(ctx context.Context, s *devices.List) map[string]bool {
	found := map[string]bool{}
	var all []protocol.Attachment
	var list [][]protocol.Attachment // by volume: a half removed device may exist beside its replacement
	index := map[string]int{}
	for _, a := range d.findWaiting(ctx, s) {
		found[a.Device] = true
		if k := d.table.Find(a.Volume, ""); k != nil && k.Device == a.Device {
			continue // it was handed over
		}
		i, known := index[a.Volume]
		if !known {
			i = len(list)
			index[a.Volume], list = i, append(list, nil)
		}
		all, list[i] = append(all, a), append(list[i], a)
	}
	d.table.Expect(all)
	takeSideBySide(len(list), func(i int) {
		for _, a := range list[i] {
			d.takeDevice(ctx, a, slices.Contains(s.Starting, a.Volume))
		}
	})
	return found
}

// findWaiting asks all transports for waiting devices, and completes them from the list. Devices
// that are in the list come first.
func (d *Daemon) findWaiting(ctx context.Context, s *devices.List) []protocol.Attachment {
	var all []protocol.Attachment
	for name, t := range d.transports {
		list, err := t.Find(ctx, s.Claims())
		if err != nil {
			d.log.Error("not all devices are known; those that an earlier daemon has noted are tried", "transport", name, "error", err)
			list = andNoted(list, s.Attached, name)
			d.unlisted = true
		}
		all = append(all, list...)
	}
	noted := map[string]bool{}
	for i := range all {
		for _, k := range s.Attached {
			if k.Volume == all[i].Volume && k.Device == all[i].Device {
				all[i].Since, all[i].MountedAt, all[i].VolumeID, all[i].ReadOnly = k.Since, k.MountedAt, k.VolumeID, k.ReadOnly
				noted[k.Device] = true
			}
		}
		all[i] = d.ofSnapshot(all[i])
	}
	slices.SortStableFunc(all, func(a, b protocol.Attachment) int {
		switch {
		case noted[a.Device] == noted[b.Device]:
			return 0
		case noted[a.Device]:
			return -1
		}
		return 1
	})
	return all
}

// takeDevice takes over one waiting device. If scan is set, because the device was just being made,
// its partition table is read first.
func (d *Daemon) takeDevice(ctx context.Context, a protocol.Attachment, scan bool) {
	d.table.Expect([]protocol.Attachment{a})
	dev, err := d.transports[a.Transport].Recover(ctx, a)
	if err != nil {
		d.decide(ctx, a, fmt.Errorf("take over from an earlier daemon: %w", err))
		return
	}
	if other, taken := d.table.Taken(a.Volume); taken && other.Device != a.Device {
		d.log.Error("the volume has another device already: this one waits", "volume", a.Volume, "device", a.Device, "other", other.Device,
			"error", dev.Leave(ctx))
		d.table.NoteLeft(a.Volume)
		return
	}
	if scan {
		d.scanPartitions(ctx, a, dev) // logged
	}
	d.keep(a, dev)
	d.log.Info("device of an earlier daemon taken over", "volume", a.Volume, "device", a.Device)
}

// andNoted adds the devices of a list of noted ones: a device that the driver could not be asked
// about must not be taken for gone.
func andNoted(list, noted []protocol.Attachment, transport string) []protocol.Attachment {
	for _, a := range noted {
		known := slices.ContainsFunc(list, func(k protocol.Attachment) bool { return k.Device == a.Device })
		if a.Transport == transport && !known {
			list = append(list, a)
		}
	}
	return list
}

// discardGone removes the leftovers of an earlier daemon's devices that do not exist any more.
func (d *Daemon) discardGone(ctx context.Context, list []protocol.Attachment, there map[string]bool) {
	for _, a := range list {
		if !there[a.Device] {
			d.log.Warn("device of an earlier daemon is gone; attach the volume again", "volume", a.Volume, "device", a.Device)
			d.discard(ctx, a)
		}
	}
}

// discard removes a device that cannot be served any more, or its leftovers; change is held.
func (d *Daemon) discard(ctx context.Context, a protocol.Attachment) {
	log := d.log.With("volume", a.Volume, "device", a.Device)
	t := d.transports[a.Transport]
	if t == nil {
		log.Error("device may be left over", "error", fmt.Sprintf("unknown transport %q", a.Transport))
		return
	}
	if err := t.Discard(ctx, a, true); err != nil {
		log.Error("device is left over", "error", err)
		d.table.NoteLeft(a.Volume)
	}
}

func (d *Daemon) takeMount(m protocol.Mount) error {
	log := d.log.With("dir", m.Dir)
	stale, err := dropStaleMount(m.Dir)
	if err != nil {
		log.Error("mount of an earlier daemon is left over", "error", err)
		return err
	}
	if d.mounts.mounter == nil {
		return nil
	}
	err = checkMountPoint(d.location(), m.Dir)
	if err == nil {
		err = d.mounts.mount(m)
	}
	if err != nil {
		log.Error("mount of an earlier daemon was not mounted again", "error", err)
		return err
	}
	log.Info("mount of an earlier daemon mounted again", "was_stale", stale)
	return nil
}
