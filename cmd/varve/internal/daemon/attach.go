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
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
	"varve/objstore/failpoint"
)

// attachments lists the devices that are served, in order of volume; mu is held.
func (d *Daemon) attachments() []protocol.Attachment {
	list := make([]protocol.Attachment, 0, len(d.attached))
	for _, a := range d.attached {
		list = append(list, a.Attachment)
	}
	return inOrder(list)
}

// shown lists all devices with their state, in order of volume; mu is held.
func (d *Daemon) shown() []protocol.Attachment {
	list := d.attachments()
	for i := range list {
		list[i].State = protocol.StateServed
	}
	for _, w := range d.waiting {
		list = append(list, w.shown())
	}
	for i := range list {
		list[i] = list[i].Shown()
	}
	return inOrder(list)
}

// shownForeign lists the devices that are left alone; mu is held.
func (d *Daemon) shownForeign() []protocol.Attachment {
	list := slices.Clone(d.foreign)
	for i := range list {
		list[i] = list[i].Shown()
	}
	return inOrder(list)
}

func inOrder(list []protocol.Attachment) []protocol.Attachment {
	slices.SortFunc(list, func(a, b protocol.Attachment) int { return cmp.Compare(a.Volume, b.Volume) })
	return list
}

func (d *Daemon) serveAttachments(context.Context, *http.Request, server.None) ([]protocol.Attachment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shown(), nil
}

func (d *Daemon) serveAttach(ctx context.Context, _ *http.Request, r protocol.Attach) (protocol.Attached, error) {
	if len(d.transports) == 0 {
		return protocol.Attached{}, protocol.ErrNeedsDaemon
	}
	if r.Snapshot != "" { // it settles first, before anybody has to wait for us
		if _, err := d.store.WaitSnapshot(ctx, r.Volume, r.Snapshot); err != nil {
			return protocol.Attached{}, err
		}
	}
	d.change.Lock()
	defer d.change.Unlock()
	if r.Snapshot != "" {
		return d.attachSnapshot(ctx, r)
	}
	return d.attach(ctx, r)
}

// attach puts a volume on a device node; change is held.
func (d *Daemon) attach(ctx context.Context, r protocol.Attach) (protocol.Attached, error) {
	if err := d.mayAttach(r.Volume); err != nil {
		return protocol.Attached{}, err
	}
	if err := d.mayLieOn(r.Volume); err != nil {
		return protocol.Attached{}, err
	}
	d.begin(r.Volume) // before there is a device: if we die, the next daemon has to know it
	dev, a, notes, err := d.start(ctx, r)
	if err != nil {
		d.begin("")
		return protocol.Attached{}, err
	}
	a.Volume, a.Since = r.Volume, time.Now().UTC().Truncate(time.Second)
	notes = slices.Concat(notes, d.scanPartitions(ctx, a, dev), d.swapNotes(a.Volume))
	a = d.keep(a, dev)
	failpoint.Here(failpoint.AttachListed)
	d.refreshLive(a.Volume)
	d.log.Info("attached", "volume", a.Volume, "device", a.Device, "transport", a.Transport,
		"copy_mode", a.CopyMode, "queues", a.Queues, "depth", a.Depth, "read_only", a.ReadOnly)
	return protocol.Attached{Attachment: a.Shown(), Notes: append(notes, d.foreignNotes(a.Volume)...)}, nil
}

func (d *Daemon) mayAttach(volume string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return protocol.ErrStopping
	}
	if a, taken := d.taken(volume); taken {
		return fmt.Errorf("volume %q: %w: attached as %s", volume, objstore.ErrInUse, a.Device)
	}
	if _, err := d.store.VolumeInfo(volume); err != nil {
		return err
	}
	return d.open.mayTake(deviceDescriptors+laterDescriptors*len(d.attached), 0)
}

// taken says where a volume is attached, served or not; mu is held.
func (d *Daemon) taken(volume string) (protocol.Attachment, bool) {
	if k := d.attached[volume]; k != nil {
		return k.Attachment, true
	}
	if w := d.waiting[volume]; w != nil {
		return w.Attachment, true
	}
	return protocol.Attachment{}, false
}

// begin notes that a volume's device is being made; none: no more.
func (d *Daemon) begin(volume string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.starting = volume
	d.save()
}

// loopNote is what whoever gets a loop device has to know.
const loopNote = "a loop device does not outlive its daemon: if that dies, I/O fails, and what was not synced is lost; " +
	"varve upgrade refuses while it is attached"

// start picks the transport. auto means ublk, and loop where there is none.
func (d *Daemon) start(ctx context.Context, r protocol.Attach) (device, protocol.Attachment, []string, error) {
	if r.Transport == "loop" {
		if r.CopyMode != "" && r.CopyMode != "auto" || r.Queues > 0 || r.Depth > 0 {
			return nil, protocol.Attachment{}, nil, protocol.As(objstore.ErrInvalid,
				errors.New("a loop device has no copy mode, queues and depth; they are options of ublk"))
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

// scanPartitions returns when the device's partitions are there, or with a note that they are not. Until then the volume
// counts as one whose device is being made, so that the next daemon scans if we die.
func (d *Daemon) scanPartitions(ctx context.Context, a protocol.Attachment, dev device) (notes []string) {
	err := dev.ScanPartitions(ctx)
	if err == nil {
		return nil
	}
	d.log.Warn("partitions may be missing", "volume", a.Volume, "device", a.Device, "error", err)
	return []string{"partitions may be missing: " + err.Error()}
}

// LessThanAsked notes where the kernel has made less of a device than was asked for; zero is the default.
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

// ofSnapshot adds the snapshot that a device shows, if its volume is a scratch volume over one.
func (d *Daemon) ofSnapshot(a protocol.Attachment) protocol.Attachment {
	if v, err := d.store.VolumeInfo(a.Volume); err == nil {
		a.Snapshot = v.Of
	}
	return a
}

// keep lists a device that is served, and watches for its end.
func (d *Daemon) keep(a protocol.Attachment, dev device) protocol.Attachment {
	a = d.ofSnapshot(a)
	k := &attachment{Attachment: a, dev: dev, began: time.Now()}
	d.mu.Lock()
	w := d.waiting[a.Volume]
	listed := w != nil && w.Attachment == a && d.starting != a.Volume
	d.attached[a.Volume] = k
	d.unwait(a.Volume)
	d.restore.dropDevice(a.Volume)
	if d.starting == a.Volume {
		d.starting = ""
	}
	if !listed {
		d.save()
	}
	if a.MountedAt != "" {
		d.watchMount(k)
	}
	d.mu.Unlock()
	d.watchers.Add(1)
	go func() {
		defer d.watchers.Done()
		<-dev.Done()
		d.mu.Lock()
		var w *waiter
		if !k.leaving && d.attached[a.Volume] == k {
			w = d.lose(k)
		}
		d.mu.Unlock()
		if w != nil {
			d.revive(k, w)
		}
	}()
	return a
}

func (d *Daemon) serveDetach(ctx context.Context, _ *http.Request, r protocol.Detach) (protocol.Attachment, error) {
	if len(d.transports) == 0 {
		return protocol.Attachment{}, protocol.ErrNeedsDaemon
	}
	node := resolveNode(r.Target) // before anybody has to wait for us: it may take long
	d.change.Lock()
	defer d.change.Unlock()
	target, err := d.detachTarget(r.Target)
	if err != nil {
		return protocol.Attachment{}, err
	}
	if target != r.Target {
		node = target
	}
	defer d.sweepScratch(ctx)
	k := d.find(target, node)
	a, waits := d.findWaiting(target, node)
	if k != nil {
		a = k.Attachment
	}
	if err := d.checkTarget(target, node, a.Device); err != nil {
		return protocol.Attachment{}, err
	}
	if k == nil && waits {
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
	return k.Shown(), err
}

// checkTarget refuses a path that has a device's name and is not that device. One that is not there may be its name all
// the same.
func (d *Daemon) checkTarget(target, path, device string) error {
	if path != device || !filepath.IsAbs(target) {
		return nil
	}
	n, err := devnode.Block(filepath.Base(device))
	if err != nil {
		return nil //nolint:nilerr // the device has gone, and what is left of it goes by its name
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

// find takes a volume's name, or the device node that it is otherwise.
func (d *Daemon) find(target, node string) *attachment {
	d.mu.Lock()
	defer d.mu.Unlock()
	if k := d.attached[target]; k != nil {
		return k
	}
	for _, k := range d.attached {
		if k.Device == node {
			return k
		}
	}
	return nil
}

// detach takes a device away; change is held.
func (d *Daemon) detach(ctx context.Context, k *attachment, force bool) error {
	d.setLeaving(k, true)
	if err := k.dev.Stop(ctx, force); err != nil {
		d.setLeaving(k, false)
		d.seeEnd(k)
		return fmt.Errorf("detach %s (volume %q): %w", k.Device, k.Volume, err)
	}
	d.drop(k)
	failpoint.Here(failpoint.DetachListed)
	d.refreshLive(k.Volume)
	d.log.Info("detached", "volume", k.Volume, "device", k.Device, "force", force)
	return nil
}

func (d *Daemon) setLeaving(k *attachment, v bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k.leaving = v
}

// seeEnd looks whether a device has ended although its Stop failed: who watches for its end took that for ours.
func (d *Daemon) seeEnd(k *attachment) {
	select {
	case <-k.dev.Done():
	default:
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attached[k.Volume] == k {
		w := d.lose(k)
		d.watchers.Go(func() { d.revive(k, w) })
	}
}

func (d *Daemon) drop(k *attachment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attached[k.Volume] == k {
		delete(d.attached, k.Volume)
		d.save()
	}
}
