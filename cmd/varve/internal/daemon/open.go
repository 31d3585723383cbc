package daemon

import (
	"context"
	"log/slog"
	"sync"

	"github.com/google/uuid"

	"varve/blockdev"
	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/instance"
	"varve/objstore"
)

// OpenStore opens a store as every command must: devices that a dead daemon left waiting decide how
// much of an unflushed journal counts, as their users rely on acknowledged writes.
func OpenStore(ctx context.Context, dir string, log *slog.Logger, o objstore.Options) (*objstore.Store, error) {
	if err := mayOpen(ctx, dir, blockstack.Below, blockdev.Peek); err != nil {
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
	waiting := sync.OnceValue(func() orphans { return waitingDevices(ctx, files, log) })
	o.TrustCache = func(markName string) bool { return waiting().hasOwn(markName) }
	o.Contested = func(id uuid.UUID, names ...string) bool { return waiting().mayConcern(id, names) }
	return objstore.Open(ctx, dir, o)
}

// Local returns a handler for a command that runs without a daemon. It knows the devices that wait
// for one.
func Local(ctx context.Context, dir string, store *objstore.Store, version string) *Daemon {
	inst, err := instance.At(dir, store.FilesUUID())
	d := New(dir, store, Options{Version: version, inst: inst})
	if err != nil {
		d.log.Error("the identity of the store is unknown", "error", err)
	}
	o := waitingDevices(ctx, dir, d.log)
	for i := range o.own {
		o.own[i] = d.renamed(o.own[i])
	}
	d.table.Expect(o.own)
	d.table.SetForeign(o.foreign)
	return d
}
