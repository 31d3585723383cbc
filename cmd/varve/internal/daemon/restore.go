package daemon

import (
	"context"

	"varve/cmd/varve/internal/protocol"
)

// attachRestored attaches again what an earlier daemon detached when it stopped.
func (d *Daemon) attachRestored(ctx context.Context, a protocol.Attachment) {
	log := d.log.With("volume", a.Volume, "device", a.Device)
	ctx, give, err := d.turns.take(ctx, turnOf(a.Volume))
	if err == nil {
		defer give()
		if _, taken := d.table.Taken(a.Volume); taken {
			return // it waited, and was taken over
		}
		var at protocol.Attached
		at, err = d.attach(ctx, protocol.Attach{
			Volume: a.Volume, Transport: a.Transport, CopyMode: a.CopyMode, Queues: a.Queues, Depth: a.Depth, ReadOnly: a.ReadOnly,
			Number: &a.ID,
		})
		if err == nil {
			log.Info("volume was attached when the daemon was stopped, and is attached again", "now", at.Device)
			return
		}
	}
	log.Error("volume was attached when the daemon was stopped, and is not attached again", "error", err)
}
