package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/failpoint"
)

// Takeover restores what the previous daemon served: waiting devices are served again, leftovers of
// devices that are gone are reported and removed, and dead mounts are mounted again.
//
// What the kernel does not answer for delays neither the rest nor the return of Takeover: it is
// logged, goes on in the background, and belongs to the watchers.
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
	d.leaveForeign(ctx, &s)
	waits := d.takeWaiting(ctx, &s)
	gone := slices.DeleteFunc(slices.Clone(s.Attached), func(a protocol.Attachment) bool { return waits[a.Device] })
	d.sideBySide(len(gone), func(i int) { d.discardGone(ctx, gone[i]) }, nameless)
	d.sideBySide(len(s.Starting), func(i int) {
		// Its ublk device was found, if there was one; a loop device is known by the volume.
		left := protocol.Attachment{Volume: s.Starting[i], Transport: "loop"}
		if s.Old() {
			left.Mark = d.inst.OldMark(left.Volume)
		}
		d.discard(ctx, left)
	}, nameless)
	d.table.Settled()
	d.sweepScratch(ctx)
	d.sideBySide(len(s.Restore), func(i int) { d.attachRestored(ctx, s.Restore[i]) }, func(i int) {
		d.log.Error("volume is not attached again yet", "volume", s.Restore[i].Volume, "device", s.Restore[i].Device)
	})
	d.sideBySide(len(s.Mounts), func(i int) { _ = d.takeMount(ctx, s.Mounts[i]) }, func(i int) { // errors are logged
		d.log.Error("mount of an earlier daemon is not mounted again yet", "dir", s.Mounts[i].Dir)
	})
	kept := d.keptTargets()
	d.sideBySide(len(kept), func(i int) {
		if err := d.takeTarget(ctx, kept[i]); err != nil {
			d.postponeTarget(kept[i], err)
		}
	}, func(i int) {
		d.log.Error("device of an earlier daemon is not taken over yet", "id", kept[i].ID, "target", kept[i].String())
	})
	d.table.Restored() // what could not be brought back is in the log
}

const (
	// maxRecoveries is the number of devices that are taken over concurrently. A recovery mostly
	// waits for the kernel, and takes some threads meanwhile.
	maxRecoveries = 32
	// answersWithin is how long the daemon waits for the next device or mount of several before it goes
	// on without those that are left.
	answersWithin = 2 * time.Second
)

// allSideBySide calls f(0) to f(n-1), at most maxRecoveries at a time, and returns when all have
// returned.
func allSideBySide(n int, f func(i int)) {
	var g errgroup.Group
	g.SetLimit(maxRecoveries)
	for i := range n {
		g.Go(func() error { f(i); return nil })
	}
	_ = g.Wait() // f has no error
}

// sideBySide calls take(0) to take(n-1), at most maxRecoveries at a time. It returns when all have
// returned, or when none has returned for d.patience: it then calls late for those that go on.
func (d *Daemon) sideBySide(n int, take, late func(i int)) {
	free := make(chan struct{}, maxRecoveries)
	ended := make(chan int, n)
	for i := range n {
		d.watchers.Go(func() {
			free <- struct{}{}
			defer func() { <-free; ended <- i }()
			take(i)
		})
	}
	left := make(map[int]bool, n)
	for i := range n {
		left[i] = true
	}
	for len(left) > 0 {
		select {
		case i := <-ended:
			delete(left, i)
		case <-time.After(d.patience):
			for _, i := range slices.Sorted(maps.Keys(left)) {
				late(i)
			}
			return
		}
	}
}

// nameless says nothing of what goes on.
func nameless(int) {}

// takeWaiting takes over the waiting devices that the kernel reports, whether or not they are in
// the list: a daemon may have died before it wrote the list. It returns the devices that it found.
// Those for which the kernel does not answer are taken over in the background.
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
	d.sideBySide(len(list), func(i int) {
		ctx, give, err := d.turns.take(ctx, turnOf(list[i][0].Volume))
		if err != nil {
			return // the daemon ends, and leaves them to the next one
		}
		defer give()
		for _, a := range list[i] {
			d.takeDevice(ctx, a, slices.Contains(s.Starting, a.Volume))
		}
	}, func(i int) {
		a := list[i][0]
		d.log.Error("the kernel does not answer for the device: its I/O waits, and the daemon goes on without it",
			"volume", a.Volume, "device", a.Device)
		d.table.Explain(a, devices.ErrUnanswered)
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
			d.unlisted.Store(true)
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
	if ctx.Err() != nil { // the daemon ends
		d.leaveAgain(ctx, a, dev)
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

// leaveAgain leaves a device that was just taken over to the next daemon.
func (d *Daemon) leaveAgain(ctx context.Context, a protocol.Attachment, dev devices.Device) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quiesceLimit)
	defer cancel()
	if err := dev.Leave(ctx); err != nil {
		d.log.Error("device was not left to the next daemon", "volume", a.Volume, "device", a.Device, "error", err)
	}
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

// discardGone removes the leftovers of an earlier daemon's device that does not exist any more.
func (d *Daemon) discardGone(ctx context.Context, a protocol.Attachment) {
	d.log.Warn("device of an earlier daemon is gone; attach the volume again", "volume", a.Volume, "device", a.Device)
	d.discard(ctx, a)
}

// discard removes a device that cannot be served any more, or its leftovers.
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

// takeMount mounts again what an earlier daemon had mounted.
func (d *Daemon) takeMount(ctx context.Context, m protocol.Mount) error {
	log := d.log.With("dir", m.Dir)
	_, give, err := d.turns.take(ctx, turnAt(m.Dir))
	if err != nil {
		return err
	}
	defer give()
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
