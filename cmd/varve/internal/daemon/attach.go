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

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
	"varve/objstore/failpoint"
)

// attachments lists them in order of volume; mu is held.
func (d *Daemon) attachments() []protocol.Attachment {
	list := make([]protocol.Attachment, 0, len(d.attached))
	for _, a := range d.attached {
		list = append(list, a.Attachment)
	}
	slices.SortFunc(list, func(a, b protocol.Attachment) int { return cmp.Compare(a.Volume, b.Volume) })
	return list
}

func (d *Daemon) serveAttachments(context.Context, *http.Request, none) ([]protocol.Attachment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attachments(), nil
}

func (d *Daemon) serveAttach(ctx context.Context, _ *http.Request, r protocol.Attach) (protocol.Attached, error) {
	if len(d.transports) == 0 {
		return protocol.Attached{}, protocol.ErrNeedsDaemon
	}
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.mayAttach(r.Volume); err != nil {
		return protocol.Attached{}, err
	}
	if err := d.mayLieOn(r.Volume); err != nil {
		return protocol.Attached{}, err
	}
	dev, a, notes, err := d.start(ctx, r)
	if err != nil {
		return protocol.Attached{}, err
	}
	a.Volume, a.Since = r.Volume, time.Now().UTC().Truncate(time.Second)
	d.keep(a, dev)
	failpoint.Here(failpoint.AttachListed)
	d.log.Info("attached", "volume", a.Volume, "device", a.Device, "transport", a.Transport,
		"copy_mode", a.CopyMode, "queues", a.Queues, "depth", a.Depth, "read_only", a.ReadOnly)
	return protocol.Attached{Attachment: a, Notes: notes}, nil
}

func (d *Daemon) mayAttach(volume string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return protocol.ErrStopping
	}
	a, taken := d.waiting[volume]
	if b := d.attached[volume]; b != nil {
		a, taken = b.Attachment, true
	}
	if taken {
		return fmt.Errorf("volume %q: %w: attached as %s", volume, objstore.ErrInUse, a.Device)
	}
	if _, err := d.store.VolumeInfo(volume); err != nil {
		return err
	}
	return nil
}

// start picks the transport. auto means ublk, and loop where there is none.
func (d *Daemon) start(ctx context.Context, r protocol.Attach) (device, protocol.Attachment, []string, error) {
	if r.Transport == "loop" {
		if r.CopyMode != "" && r.CopyMode != "auto" || r.Queues > 0 || r.Depth > 0 {
			return nil, protocol.Attachment{}, nil, protocol.As(objstore.ErrInvalid,
				errors.New("a loop device has no copy mode, queues and depth; they are options of ublk"))
		}
		dev, a, err := d.transports["loop"].Attach(ctx, r)
		return dev, a, nil, err
	}
	dev, a, err := d.transports["ublk"].Attach(ctx, r)
	if r.Transport == "ublk" || !errors.Is(err, protocol.ErrNoTransport) {
		return dev, a, nil, err
	}
	notes := []string{fmt.Sprintf("using a loop device, which is slower: %v", err)}
	if r.CopyMode != "" && r.CopyMode != "auto" {
		return nil, a, nil, fmt.Errorf("copy mode %q: %w", r.CopyMode, err)
	}
	if r.Queues > 0 || r.Depth > 0 {
		notes = append(notes, "a loop device has no queues and depth to set")
	}
	dev, a, err = d.transports["loop"].Attach(ctx, r)
	return dev, a, notes, err
}

// keep lists a device that is served, and watches for its end.
func (d *Daemon) keep(a protocol.Attachment, dev device) {
	k := &attachment{Attachment: a, dev: dev, began: time.Now()}
	d.mu.Lock()
	d.attached[a.Volume] = k
	delete(d.waiting, a.Volume)
	d.save()
	d.mu.Unlock()
	d.watchers.Add(1)
	go func() {
		defer d.watchers.Done()
		<-dev.Done()
		d.mu.Lock()
		surprise := !k.leaving
		if surprise && d.attached[a.Volume] == k {
			delete(d.attached, a.Volume)
			d.save()
		}
		d.mu.Unlock()
		if surprise {
			d.log.Warn("device went away, and not by our doing", "volume", a.Volume, "device", a.Device)
			d.revive(k)
		}
	}()
}

// reviveAfter is how long a device has to have lived to be served again when its service failed: what fails at once
// would fail for ever.
const reviveAfter = 10 * time.Second

// revive serves a device again whose service has failed while the kernel keeps its I/O.
func (d *Daemon) revive(k *attachment) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	d.change.Lock()
	defer d.change.Unlock()
	log := d.log.With("volume", k.Volume, "device", k.Device)
	t := d.transports[k.Transport]
	list, err := t.Find(ctx)
	if err != nil {
		log.Error("whether the device waits for a server is unknown", "error", err)
	}
	if !slices.ContainsFunc(list, func(a protocol.Attachment) bool { return a.Device == k.Device }) {
		return // gone for good
	}
	d.mu.Lock()
	tooSoon := d.stopping || time.Since(k.began) < d.reviveAfter
	d.waiting[k.Volume] = k.Attachment
	d.save()
	d.mu.Unlock()
	if tooSoon {
		log.Error("device failed soon after its start: its I/O waits for the next daemon")
		return
	}
	dev, err := t.Recover(ctx, k.Attachment)
	if err != nil {
		log.Error("device failed and can not be served again: its I/O waits for the next daemon", "error", err)
		return
	}
	d.keep(k.Attachment, dev)
	log.Warn("device is served again")
}

func (d *Daemon) serveDetach(ctx context.Context, _ *http.Request, r protocol.Detach) (protocol.Attachment, error) {
	if len(d.transports) == 0 {
		return protocol.Attachment{}, protocol.ErrNeedsDaemon
	}
	d.change.Lock()
	defer d.change.Unlock()
	k := d.find(r.Target)
	if a, waits := d.findWaiting(r.Target); k == nil && waits {
		return a, d.detachWaiting(ctx, a, r.Force)
	}
	if k == nil {
		return protocol.Attachment{}, protocol.As(objstore.ErrNotFound,
			fmt.Errorf("%q is neither an attached volume nor the device of one", r.Target))
	}
	return k.Attachment, d.detach(ctx, k, r.Force)
}

// resolveNode follows symbolic links to a device node.
func resolveNode(target string) string {
	if resolved, err := filepath.EvalSymlinks(target); err == nil && filepath.IsAbs(target) {
		return resolved
	}
	return target
}

// findWaiting is find for devices that nobody serves.
func (d *Daemon) findWaiting(target string) (protocol.Attachment, bool) {
	node := resolveNode(target)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.waiting {
		if a.Volume == target || a.Device == node {
			return a, true
		}
	}
	return protocol.Attachment{}, false
}

// detachWaiting removes a device that nobody serves: whoever has it open waits for I/O that fails then.
func (d *Daemon) detachWaiting(ctx context.Context, a protocol.Attachment, force bool) error {
	if !force {
		return fmt.Errorf("%s (volume %q): %w: its I/O waits for a server; start the daemon again, or use --force",
			a.Device, a.Volume, protocol.ErrBusy)
	}
	if err := d.transports[a.Transport].Discard(ctx, a); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, a.Volume)
	d.save()
	d.log.Info("detached", "volume", a.Volume, "device", a.Device, "force", true)
	return nil
}

// find takes a volume's name or a device node, also by a symbolic link to it.
func (d *Daemon) find(target string) *attachment {
	node := resolveNode(target)
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
		if errors.Is(err, protocol.ErrBusy) {
			return fmt.Errorf("%s (volume %q): %w; unmount or close it first, or use --force", k.Device, k.Volume, err)
		}
		return fmt.Errorf("detach %s (volume %q): %w", k.Device, k.Volume, err)
	}
	d.drop(k)
	failpoint.Here(failpoint.DetachListed)
	d.log.Info("detached", "volume", k.Volume, "device", k.Device, "force", force)
	return nil
}

func (d *Daemon) setLeaving(k *attachment, v bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k.leaving = v
}

func (d *Daemon) drop(k *attachment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attached[k.Volume] == k {
		delete(d.attached, k.Volume)
		d.save()
	}
}
