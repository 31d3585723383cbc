package daemon

import (
	"context"

	"varve/cmd/varve/internal/protocol"
)

// attachRestored attaches again what an earlier daemon detached when it stopped; change is held.
func (d *Daemon) attachRestored(ctx context.Context, list []protocol.Attachment) {
	for _, a := range list {
		if _, taken := d.table.Taken(a.Volume); taken {
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
