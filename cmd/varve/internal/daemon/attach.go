package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"varve/blockdev/devnode"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
	"varve/objstore/failpoint"
)

func (d *Daemon) serveAttachments(context.Context, *http.Request, server.None) ([]protocol.Attachment, error) {
	return d.table.Shown(), nil
}

func (d *Daemon) serveAttach(ctx context.Context, _ *http.Request, r protocol.Attach) (protocol.Attached, error) {
	if len(d.transports) == 0 {
		return protocol.Attached{}, protocol.ErrNeedsDaemon
	}
	if r.Snapshot != "" {
		return d.attachSnapshot(ctx, r)
	}
	ctx, give, err := d.turns.take(ctx, turnOf(r.Volume))
	if err != nil {
		return protocol.Attached{}, err
	}
	defer give()
	return d.attach(ctx, r)
}

// attach attaches a volume to a device node.
//
// REQUIRES: the caller has the volume's turn.
func (d *Daemon) attach(ctx context.Context, r protocol.Attach) (protocol.Attached, error) {
	if err := d.mayAttach(r.Volume); err != nil {
		return protocol.Attached{}, err
	}
	if err := d.mayLieOn(r.Volume); err != nil {
		return protocol.Attached{}, err
	}
	if a, free := d.table.Begin(r.Volume); !free {
		return protocol.Attached{}, errAttached(r.Volume, a)
	}
	dev, a, notes, err := d.start(ctx, r)
	if err != nil {
		d.table.Drop(r.Volume)
		return protocol.Attached{}, err
	}
	a.Volume, a.Since = r.Volume, time.Now().UTC().Truncate(time.Second)
	notes = slices.Concat(notes, d.scanPartitions(ctx, a, dev), d.swapNotes(a.Volume))
	if err := ctx.Err(); err != nil { // nobody waits for the device any more, and a daemon that ends releases it no more
		d.undo(ctx, a, dev)
		return protocol.Attached{}, fmt.Errorf("attach volume %q: %w", r.Volume, err)
	}
	a = d.keep(a, dev)
	failpoint.Here(failpoint.AttachListed)
	d.refreshLive(a.Volume)
	d.log.Info("attached", "volume", a.Volume, "device", a.Device, "transport", a.Transport,
		"copy_mode", a.CopyMode, "queues", a.Queues, "depth", a.Depth, "read_only", a.ReadOnly)
	return protocol.Attached{Attachment: a.Shown(), Notes: append(notes, d.foreignNotes(a.Volume)...)}, nil
}

// undo removes a device that has just been made.
func (d *Daemon) undo(ctx context.Context, a protocol.Attachment, dev devices.Device) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := dev.Stop(ctx, true); err != nil {
		d.log.Error("device is left over", "volume", a.Volume, "device", a.Device, "error", err)
		d.table.NoteLeft(a.Volume)
	}
	d.table.Drop(a.Volume)
}

func (d *Daemon) mayAttach(volume string) error {
	if d.turns.over() {
		return protocol.ErrStopping
	}
	if a, taken := d.table.Taken(volume); taken {
		return errAttached(volume, a)
	}
	if _, err := d.store.VolumeInfo(volume); err != nil {
		return err
	}
	return d.open.mayTake(deviceDescriptors*(1+d.table.Making())+laterDescriptors*len(d.table.Served()), 0)
}

// errAttached is the error of a request that needs the volume to have no device.
func errAttached(volume string, a protocol.Attachment) error {
	return fmt.Errorf("volume %q: %w: attached as %s", volume, objstore.ErrInUse, a.Device)
}

// loopNote is for the user who gets a loop device.
const loopNote = "a loop device does not outlive its daemon: if that dies, I/O fails, and what was not synced is lost; " +
	"varve upgrade refuses while it is attached"

// start picks the transport and makes the device. auto means ublk, or loop where there is no ublk.
func (d *Daemon) start(ctx context.Context, r protocol.Attach) (devices.Device, protocol.Attachment, []string, error) {
	if r.Transport == "loop" {
		if r.CopyMode != "" && r.CopyMode != "auto" || r.Queues > 0 || r.Depth > 0 {
			return nil, protocol.Attachment{}, nil, protocol.As(objstore.ErrInvalid,
				errors.New("a loop device has no copy mode, queues or depth; they are options of ublk"))
		}
		dev, a, err := d.transports["loop"].Attach(ctx, r)
		return dev, a, []string{loopNote}, err
	}
	dev, a, err := d.transports["ublk"].Attach(ctx, r)
	if err == nil {
		return dev, a, LessThanAsked(r.Queues, r.Depth, a.Queues, a.Depth), nil
	}
	if r.Transport == "ublk" || !errors.Is(err, protocol.ErrNoTransport) {
		return dev, a, nil, err
	}
	notes := []string{fmt.Sprintf("using a loop device, which is slower: %v", err), loopNote}
	if r.CopyMode != "" && r.CopyMode != "auto" {
		return nil, a, nil, fmt.Errorf("copy mode %q: %w", r.CopyMode, err)
	}
	if r.Queues > 0 || r.Depth > 0 {
		notes = append(notes, "a loop device has no queues and depth to set")
	}
	dev, a, err = d.transports["loop"].Attach(ctx, r)
	return dev, a, notes, err
}

// scanPartitions returns when the device's partitions are there, or with a note that they are not.
// Until then the volume counts as one whose device is being made, so that the next daemon scans if
// this one dies.
func (d *Daemon) scanPartitions(ctx context.Context, a protocol.Attachment, dev devices.Device) (notes []string) {
	err := dev.ScanPartitions(ctx)
	if err == nil {
		return nil
	}
	d.log.Warn("partitions may be missing", "volume", a.Volume, "device", a.Device, "error", err)
	return []string{"partitions may be missing: " + err.Error()}
}

// LessThanAsked returns notes where the kernel has made fewer or shallower queues than were asked
// for; zero asks for the default.
func LessThanAsked(queues, depth, gotQueues, gotDepth int) []string {
	var notes []string
	if queues > gotQueues {
		notes = append(notes, fmt.Sprintf("--queues %d became %d: the kernel makes one for each processor at most", queues, gotQueues))
	}
	if depth > gotDepth {
		notes = append(notes, fmt.Sprintf("--depth %d became %d: the kernel makes no deeper queues", depth, gotDepth))
	}
	return notes
}

// ofSnapshot adds the snapshot of a device whose volume is a scratch volume.
func (d *Daemon) ofSnapshot(a protocol.Attachment) protocol.Attachment {
	if v, err := d.store.VolumeInfo(a.Volume); err == nil {
		a.Snapshot = v.Of
	}
	return a
}

// keep enters a served device into the table, and watches for its end.
func (d *Daemon) keep(a protocol.Attachment, dev devices.Device) protocol.Attachment {
	d.naming.Lock() // its snapshot may be renamed, without the turn of the scratch volume
	a = d.ofSnapshot(a)
	if v, err := d.store.VolumeInfo(a.Volume); err == nil {
		a.VolumeID = v.ID
	}
	k := d.table.Serve(a, dev)
	d.naming.Unlock()
	if a.MountedAt != "" {
		d.watchMount(k)
	}
	d.watchers.Go(func() {
		<-dev.Done()
		if w := d.lose(k); w != nil {
			d.revive(k, w)
		}
	})
	return a
}

func (d *Daemon) serveDetach(ctx context.Context, _ *http.Request, r protocol.Detach) (protocol.Attachment, error) {
	if len(d.transports) == 0 {
		return protocol.Attachment{}, protocol.ErrNeedsDaemon
	}
	node := resolveNode(r.Target) // it may take long
	target, err := d.detachTarget(r.Target)
	if err != nil {
		return protocol.Attachment{}, err
	}
	if target != r.Target {
		node = target
	}
	defer d.sweepScratch(ctx)
	ctx, give, err := d.turnOfTarget(ctx, target, node)
	if err != nil {
		return protocol.Attachment{}, err
	}
	defer give()
	k, w := d.table.Find(target, node), d.table.FindWaiting(target, node)
	var a protocol.Attachment
	if known := cmp.Or(k, w); known != nil {
		a = d.table.Describe(known)
	}
	if err := d.checkTarget(target, node, a.Device); err != nil {
		return protocol.Attachment{}, err
	}
	if k == nil && w != nil {
		return a.Shown(), d.detachWaiting(ctx, a, r.Force)
	}
	if err := d.foreignTo(r.Target, node); k == nil && err != nil {
		return protocol.Attachment{}, err
	}
	if k == nil {
		return protocol.Attachment{}, protocol.As(objstore.ErrNotFound,
			fmt.Errorf("%q is neither an attached volume nor the device of one", r.Target))
	}
	err = d.detach(ctx, k, r.Force)
	if errors.Is(err, protocol.ErrBusy) {
		err = fmt.Errorf("%s (volume %q): %w: %s; unmount or close it first, or use --force",
			k.Device, k.Volume, protocol.ErrBusy, holders.OfDevice(k.Device))
	}
	return a.Shown(), err
}

// turnOfTarget takes the turn of the volume to whose device the target of a detach leads. A target
// that is no device may be a volume whose device is being made.
func (d *Daemon) turnOfTarget(ctx context.Context, target, node string) (context.Context, func(), error) {
	for {
		volume := d.volumeOf(target, node)
		turn, give, err := d.turns.take(ctx, turnOf(volume))
		if err != nil || d.volumeOf(target, node) == volume {
			return turn, give, err
		}
		give() // it was renamed, or the node is another volume's by now
	}
}

// volumeOf returns the volume of the device at a node, or otherwise the target.
func (d *Daemon) volumeOf(target, node string) string {
	if k := cmp.Or(d.table.Find(target, node), d.table.FindWaiting(target, node)); k != nil {
		return d.table.Describe(k).Volume
	}
	return target
}

// checkTarget refuses a path that has a device's name but is another file. A path that does not
// exist is accepted as a name.
func (d *Daemon) checkTarget(target, path, device string) error {
	if path != device || !filepath.IsAbs(target) {
		return nil
	}
	n, err := devnode.Block(filepath.Base(device))
	if err != nil {
		return nil //nolint:nilerr // the device is gone, and what is left of it is known by its name
	}
	if err = n.Check(); errors.Is(err, devnode.ErrNotDevice) {
		return protocol.As(objstore.ErrInvalid, fmt.Errorf("%w, or name the volume", err))
	}
	return nil
}

// resolveNode follows symbolic links to a device node.
func resolveNode(target string) string {
	if !filepath.IsAbs(target) {
		return target
	}
	if resolved, err := filepath.EvalSymlinks(target); err == nil {
		return resolved
	}
	return target
}

// detach removes a device.
//
// REQUIRES: the caller has the volume's turn.
func (d *Daemon) detach(ctx context.Context, k *devices.Entry, force bool) error {
	if !d.table.BeginDetach(k) {
		return fmt.Errorf("detach %s (volume %q): %w: its service has just ended; try again", k.Device, k.Volume, protocol.ErrBusy)
	}
	if err := k.Dev.Stop(ctx, force); err != nil {
		d.table.Stay(k)
		d.seeEnd(k)
		return fmt.Errorf("detach %s (volume %q): %w", k.Device, k.Volume, err)
	}
	d.table.Drop(k.Volume)
	failpoint.Here(failpoint.DetachListed)
	d.refreshLive(k.Volume)
	d.log.Info("detached", "volume", k.Volume, "device", k.Device, "force", force)
	return nil
}

// seeEnd handles the end of a device whose Stop has failed: its watcher has taken that end for a
// detach.
func (d *Daemon) seeEnd(k *devices.Entry) {
	select {
	case <-k.Dev.Done():
	default:
		return
	}
	if w := d.lose(k); w != nil {
		d.watchers.Go(func() { d.revive(k, w) })
	}
}
