package daemon

import (
	"context"
	"log/slog"

	"varve/blockdev"
	"varve/cmd/varve/internal/blockstack"
	"varve/objstore"
)

// OpenStore opens a store as every command has to: with an eye for devices that a dead daemon left with writes
// that their users believe in.
func OpenStore(ctx context.Context, dir string, log *slog.Logger, o objstore.Options) (*objstore.Store, error) {
	if err := mayOpen(ctx, dir, blockstack.Below, blockdev.Info); err != nil {
		return nil, err
	}
	files := dir
	if o.Lock != nil {
		var err error
		if files, err = o.Lock.Dir().Handle(); err != nil {
			return nil, err
		}
	}
	o.Logger = log
	o.TrustCache = func(volume string) bool {
		for _, a := range waitingDevices(ctx, files, log) {
			if a.Volume == volume {
				return true
			}
		}
		return false
	}
	return objstore.Open(ctx, dir, o)
}

// Local gives a handler for a command that runs without a daemon. It knows of devices that wait for one.
func Local(ctx context.Context, dir string, store Store, version string) *Daemon {
	d := New(dir, store, Options{Version: version})
	for _, a := range waitingDevices(ctx, dir, d.log) {
		d.waiting[a.Volume] = &waiter{Attachment: a}
	}
	return d
}
