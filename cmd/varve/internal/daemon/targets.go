package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"varve/blockdev"
	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
	"varve/objstore"
)

// targetDevices are the daemon's devices without a volume, by their numbers. Such a device is known to
// the next daemon by its record (targets.Record), which is there as long as the device is, or is to
// be brought back.
type targetDevices struct {
	mu      sync.Mutex // guards served and waiting, and is never held over I/O
	served  map[int]*targetDevice
	waiting map[int]*waitingTarget
	news    atomic.Uint64 // counts those that were to be made
}

// targetDevice is one of them, served by this process.
type targetDevice struct {
	targets.Record
	dev  *blockdev.Device
	disk *targets.Disk // nil in tests
	done chan struct{} // closed when its files are closed
}

// shown returns the device as users see it.
func (k *targetDevice) shown() protocol.ServedTarget {
	s := protocol.ServedTarget{Device: k.dev.Path(), ID: k.ID, Target: k.Target, State: protocol.StateServed}
	if k.disk != nil {
		s.Legs = k.disk.Legs()
	}
	return s
}

func (t *targetDevices) add(k *targetDevice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.served == nil {
		t.served = map[int]*targetDevice{}
	}
	t.served[k.ID] = k
	t.dropLocked(k.ID)
}

func (t *targetDevices) remove(k *targetDevice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.served[k.ID] == k {
		delete(t.served, k.ID)
	}
}

// all returns the devices in order of their numbers.
func (t *targetDevices) all() []*targetDevice {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*targetDevice, 0, len(t.served))
	for _, id := range slices.Sorted(maps.Keys(t.served)) {
		list = append(list, t.served[id])
	}
	return list
}

func (d *Daemon) serveAddTarget(ctx context.Context, _ *http.Request, r protocol.TargetDevice) (protocol.TargetAdded, error) {
	return d.changeTargets(ctx, r, d.startTarget)
}

func (d *Daemon) serveRecoverTarget(ctx context.Context, _ *http.Request, r protocol.TargetDevice) (protocol.TargetAdded, error) {
	return d.changeTargets(ctx, r, d.recoverTarget)
}

// startFunc starts, or takes over, the device of a record.
type startFunc func(context.Context, targets.Record, *targets.Disk, blockdev.Options) (*blockdev.Device, error)

// turnOfNumber is the turn of changes of a device without a volume; -1: of one that is to be made.
func (d *Daemon) turnOfNumber(id int) string {
	if id < 0 {
		return fmt.Sprintf("a new device, the %dth", d.targets.news.Add(1))
	}
	return "device " + devicePath(id)
}

func (d *Daemon) changeTargets(ctx context.Context, r protocol.TargetDevice, start startFunc) (protocol.TargetAdded, error) {
	var none protocol.TargetAdded
	if len(d.transports) == 0 {
		return none, protocol.ErrNeedsDaemon
	}
	ctx, give, err := d.turns.take(ctx, d.turnOfNumber(r.ID))
	if err != nil {
		return none, err
	}
	defer give()
	if err := d.open.mayTake(deviceDescriptors*(1+d.table.Making())+len(r.Files)+laterDescriptors*len(d.table.Served()), 0); err != nil {
		return none, err
	}
	k, notes, err := d.serveTarget(ctx, targets.Record{TargetDevice: r}, start)
	if err != nil {
		return none, invalid(err)
	}
	dev := k.dev
	notes = append(notes, LessThanAsked(r.Queues, r.Depth, dev.Queues(), dev.Depth())...)
	return protocol.TargetAdded{
		Device: dev.Path(), ID: dev.ID(), CopyMode: string(dev.Mode()), Queues: dev.Queues(), Depth: dev.Depth(), Notes: notes,
	}, nil
}

// invalid marks an error of a device as one that the client has made.
func invalid(err error) error {
	if errors.Is(err, blockdev.ErrInvalid) {
		return protocol.As(objstore.ErrInvalid, err)
	}
	return err
}

// openLimit bounds how long the files of a target may take to be opened.
const openLimit = 20 * time.Second

// openTarget opens a target, or gives up: opening a file on a file system that hangs may never end.
func (d *Daemon) openTarget(ctx context.Context, t protocol.Target) (*targets.Disk, error) {
	ctx, cancel := context.WithTimeout(ctx, d.openLimit)
	defer cancel()
	var disk *targets.Disk
	err := d.within(ctx, func() (err error) {
		disk, err = d.openNow(t)
		return err
	}, func(err error) {
		if err == nil {
			_ = disk.Close() // nothing was written
		}
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", &t, err)
	}
	return disk, nil
}

func (d *Daemon) openNow(t protocol.Target) (*targets.Disk, error) {
	if err := d.mayBack(t.Files); err != nil {
		return nil, err
	}
	disk, err := targets.Open(t, d.dir, d.log)
	if err != nil {
		return nil, err
	}
	apart := disk.MayAdd
	disk.MayAdd = func(path string) error {
		if err := d.mayBack([]string{path}); err != nil {
			return err
		}
		return apart(path)
	}
	return disk, nil
}

// serveTarget serves the device of a record, and enters it.
//
// REQUIRES: the caller has the turn of the device.
func (d *Daemon) serveTarget(ctx context.Context, r targets.Record, start startFunc) (*targetDevice, []string, error) {
	disk, err := d.openTarget(ctx, r.Target)
	if err != nil {
		return nil, nil, err
	}
	dev, err := start(ctx, r, disk, blockdev.Options{
		ID: r.ID, Queues: r.Queues, Depth: r.Depth, CopyMode: blockdev.CopyMode(r.CopyMode), ReadOnly: r.ReadOnly,
		Recovery: blockdev.Recovery(r.Recovery), Owner: instance.Standalone, Logger: d.log,
	})
	if err != nil {
		return nil, nil, errors.Join(err, disk.Close())
	}
	r.ID, r.Store, r.Instance = dev.ID(), d.dir, d.inst.ID
	notes := disk.Notes
	if err := targets.Note(r); err != nil {
		d.log.Error("the next daemon will not know a device", "device", dev.Path(), "error", err)
		notes = append(notes, fmt.Sprintf("it does not outlive the daemon: what it is made of was not noted: %v", err))
	}
	k := &targetDevice{Record: r, dev: dev, disk: disk, done: make(chan struct{})}
	d.targets.add(k)
	d.watchTarget(k, disk)
	d.log.Info("target is served", "device", dev.Path(), "target", r.String(),
		"copy_mode", dev.Mode(), "queues", dev.Queues(), "depth", dev.Depth())
	return k, notes, nil
}

// startTarget makes a device. If nobody waits for it any more, as when the daemon ends, it is
// removed again: nobody would release it.
func (d *Daemon) startTarget(ctx context.Context, _ targets.Record, disk *targets.Disk, o blockdev.Options) (*blockdev.Device, error) {
	dev, err := blockdev.Start(ctx, disk, o)
	if err != nil {
		return nil, err
	}
	if err := dev.ScanPartitions(ctx); err != nil {
		d.log.Warn("partitions may be missing", "device", dev.Path(), "error", err)
	}
	if err := ctx.Err(); err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		return nil, errors.Join(err, dev.Stop(late, true))
	}
	return dev, nil
}

// recoverTarget takes a device over, or if nobody waits for that any more, leaves it waiting.
func (d *Daemon) recoverTarget(ctx context.Context, r targets.Record, disk *targets.Disk, o blockdev.Options) (*blockdev.Device, error) {
	dev, err := blockdev.Recover(ctx, r.ID, disk, o)
	if err == nil && ctx.Err() != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		return nil, errors.Join(ctx.Err(), dev.Quiesce(late))
	}
	return dev, err
}

// watchTarget follows the size of a device's files until the device ends, and closes them then. The
// record of a device that was deleted goes with it.
func (d *Daemon) watchTarget(k *targetDevice, disk *targets.Disk) {
	d.watchers.Go(func() {
		defer close(k.done)
		disk.Follow(context.Background(), k.dev, d.log)
		if err := k.dev.Wait(); err != nil {
			d.log.Error("device failed", "device", k.dev.Path(), "error", err)
		}
		if err := disk.Close(); err != nil {
			d.log.Error("close target", "device", k.dev.Path(), "target", k.String(), "error", err)
		}
		d.targets.remove(k)
		if d.turns.over() {
			return // the record is for the next daemon
		}
		i, err := blockdev.Peek(context.Background(), k.ID)
		if errors.Is(err, blockdev.ErrNoDevice) || err == nil && i.State == blockdev.StateDead { // or about to be deleted
			d.forgetTarget(k.ID)
		}
	})
}

func (d *Daemon) forgetTarget(id int) {
	if err := targets.Forget(id); err != nil {
		d.log.Error("the record of a device is left over", "id", id, "error", err)
	}
}

// mayBack returns an error if a file lies on a device, or in a mount, of this daemon: its I/O could
// wait for itself, at the latest when the daemon ends.
func (d *Daemon) mayBack(files []string) error {
	nodes := d.ownNodes()
	for _, f := range files {
		layers, err := d.below(f)
		if err != nil {
			continue // opening it will fail with the reason, or it lies on no device
		}
		for _, l := range layers {
			if _, ours := nodes.holds(l); ours {
				return protocol.As(objstore.ErrInvalid, fmt.Errorf("%s lies on %s, which this daemon serves: its I/O would wait for itself; "+
					"--background serves it in another process", f, l))
			}
		}
	}
	return nil
}

// keptTargets are the devices without a volume that an earlier daemon of this store has left, or has
// removed because it ended.
func (d *Daemon) keptTargets() []targets.Record {
	list, err := targets.Kept(d.inst.ID)
	if err != nil {
		d.log.Error("not all devices of an earlier daemon are known", "error", err)
	}
	return list
}

// takeTargets takes over all devices without a volume from a predecessor, and reports them. One that
// the predecessor could not serve either is no error, and is tried again later.
func (d *Daemon) takeTargets(ctx context.Context, handed []protocol.HandedTarget) ([]protocol.UpgradedTarget, error) {
	var list []protocol.UpgradedTarget
	var errs []error
	for _, r := range d.keptTargets() {
		i := slices.IndexFunc(handed, func(h protocol.HandedTarget) bool { return h.ID == r.ID })
		err := d.takeTarget(ctx, r)
		switch {
		case err != nil && handed != nil && i < 0:
			d.postponeTarget(r, err)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s (%s): %w", devicePath(r.ID), &r.Target, err))
		default:
			u := protocol.UpgradedTarget{Device: devicePath(r.ID), Target: r.String()}
			if i >= 0 {
				u.Pause = time.Duration(handover.Monotonic() - handed[i].Quiesced).Seconds()
			}
			list = append(list, u)
		}
	}
	return list, errors.Join(errs...)
}

// takeTarget serves a device of an earlier daemon: it takes over one that waits, and makes one again
// that is not there.
func (d *Daemon) takeTarget(ctx context.Context, r targets.Record) error {
	ctx, give, err := d.turns.take(ctx, d.turnOfNumber(r.ID))
	if err != nil {
		return err
	}
	defer give()
	return d.takeNow(ctx, r)
}

func (d *Daemon) takeNow(ctx context.Context, r targets.Record) error {
	start := d.recoverTarget
	i, err := blockdev.Peek(ctx, r.ID)
	switch {
	case errors.Is(err, blockdev.ErrNoDevice):
		start = d.startTarget
	case err != nil:
		return err
	case i.Owner != instance.Standalone:
		d.log.Warn("a device is gone, and its number belongs to another", "id", r.ID, "target", r.String())
		d.forgetTarget(r.ID)
		return nil
	case i.State == blockdev.StateDead:
		d.log.Warn("a device without recovery has died with its daemon", "id", r.ID, "target", r.String())
		d.forgetTarget(r.ID)
		return blockdev.Delete(ctx, r.ID, true)
	}
	_, _, err = d.serveTarget(ctx, r, start)
	return err
}

// releaseTargets removes the devices without a volume, or leaves those that are open to the next
// daemon; with detach it removes all. Without detach the next daemon makes them again.
func (d *Daemon) releaseTargets(ctx context.Context, detach bool, s *parting) {
	for _, k := range d.targets.all() {
		ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
		shown, became := k.shown(), &s.DetachedTargets
		err := k.dev.Stop(ctx, detach)
		if errors.Is(err, blockdev.ErrBusy) {
			if k.Recovery != string(blockdev.RecoveryNone) {
				became = &s.LeftTargets
			}
			err = d.leaveTarget(ctx, k, s)
		}
		cancel()
		if err != nil {
			s.note(fmt.Sprintf("%s (%s): %v", k.dev.Path(), &k.Target, err))
			continue
		}
		<-k.done
		shown.State = ""
		*became = append(*became, shown)
		if detach {
			d.forgetTarget(k.ID)
		}
	}
}

// leaveTarget has the I/O of a device that is open wait for the next daemon, or fail where it was
// made so.
func (d *Daemon) leaveTarget(ctx context.Context, k *targetDevice, s *parting) error {
	switch k.Recovery {
	case string(blockdev.RecoveryNone):
		s.note(fmt.Sprintf("%s (%s) is open and was added without recovery: its I/O fails from now on", k.dev.Path(), &k.Target))
		return k.dev.Stop(ctx, true)
	case string(blockdev.RecoveryFailIO):
		s.note(fmt.Sprintf("%s (%s) is open: its I/O fails until the next daemon serves it", k.dev.Path(), &k.Target))
	default:
		s.note(fmt.Sprintf("%s (%s) is open: its I/O waits for the next daemon", k.dev.Path(), &k.Target))
	}
	return k.dev.Quiesce(ctx)
}

// quiesceTargets leaves all devices without a volume to the process that opens the store next, and
// returns since when their I/O waits.
func (d *Daemon) quiesceTargets(ctx context.Context) ([]protocol.HandedTarget, error) {
	d.targets.stopRetries()
	handed := []protocol.HandedTarget{}
	var errs []error
	for _, k := range d.targets.all() {
		handed = append(handed, protocol.HandedTarget{ID: k.ID, Quiesced: handover.Monotonic()})
		err := k.dev.Quiesce(ctx)
		<-k.done
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.dev.Path(), err))
		}
	}
	return handed, errors.Join(errs...)
}

// mayHandOverTargets returns an error if the successor could not serve the devices without a volume.
func (d *Daemon) mayHandOverTargets(h protocol.Hello) error {
	for _, k := range d.targets.all() {
		switch {
		case !h.Targets:
			return protocol.As(protocol.ErrBusy, fmt.Errorf("%s (%s) is a device of varve ublk add, and version %s can't take it over; "+
				"delete it first", k.dev.Path(), &k.Target, h.Version))
		case k.Recovery == string(blockdev.RecoveryNone):
			return protocol.As(protocol.ErrBusy, fmt.Errorf("%s (%s) was added without recovery and can't be handed over; delete it first",
				k.dev.Path(), &k.Target))
		}
	}
	return nil
}
