package daemon

import (
	"context"
	"slices"
	"sync"

	"varve/cmd/varve/internal/protocol"
)

// A restart of the service brings back devices and mounts: a daemon that is stopped notes what it detaches and unmounts,
// and the next one of the same boot attaches and mounts that again, whether or not it was in use. Stop with Detach notes
// nothing. Devices that are left waiting are no part of this; they are taken over.

// restoration is what was let go of by a stop, and has not been brought back. Guarded by Daemon.mu.
type restoration struct {
	devices []protocol.Attachment
	mounts  []protocol.Mount

	// What a takeover has not seen to yet: the devices that the earlier daemon had listed, and the volumes whose devices were
	// being made.
	noted    []protocol.Attachment
	starting []string
}

// forgetNoted is called when a takeover has seen to all devices.
func (r *restoration) forgetNoted(mu *sync.Mutex) {
	mu.Lock()
	defer mu.Unlock()
	r.noted, r.starting = nil, nil
}

func (r *restoration) dropDevice(volume string) {
	r.devices = slices.DeleteFunc(slices.Clone(r.devices), func(a protocol.Attachment) bool { return a.Volume == volume })
}

func (r *restoration) dropMount(dir string) {
	r.mounts = slices.DeleteFunc(slices.Clone(r.mounts), func(m protocol.Mount) bool { return m.Dir == dir })
}

// restoreLater notes the devices and mounts that are about to go; if that is to be for good, it forgets what was noted.
// A device of a snapshot goes for good in any case, with what was written to it.
func (d *Daemon) restoreLater(devices []*attachment, mounts []*mount, forGood bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if forGood {
		d.restore = restoration{}
		return
	}
	for _, k := range devices {
		if k.Snapshot == "" {
			d.restore.devices = append(d.restore.devices, k.Attachment)
		}
	}
	for _, k := range mounts {
		d.restore.mounts = append(d.restore.mounts, k.Mount)
	}
}

// attachRestored attaches again what an earlier daemon detached when it was stopped; change is held.
func (d *Daemon) attachRestored(ctx context.Context, list []protocol.Attachment) {
	for _, a := range list {
		d.mu.Lock()
		_, taken := d.taken(a.Volume)
		d.mu.Unlock()
		if taken {
			continue // it waited, and was taken over
		}
		at, err := d.attach(ctx, protocol.Attach{
			Volume: a.Volume, Transport: a.Transport, CopyMode: a.CopyMode, Queues: a.Queues, Depth: a.Depth, ReadOnly: a.ReadOnly,
			Number: &a.ID,
		})
		log := d.log.With("volume", a.Volume, "device", a.Device)
		if err != nil {
			log.Error("volume was attached when the daemon was stopped, and is not attached again", "error", err)
			continue
		}
		log.Info("volume was attached when the daemon was stopped, and is attached again", "now", at.Device)
	}
}
