package daemon

import (
	"context"
	"errors"
	"log/slog"

	"varve/fs"
	"varve/objstore"
)

// MountLook mounts a store that no daemon can serve because its file system is read-only, and
// returns when it is unmounted. The mount is read-only. ready is called when it is mounted.
func MountLook(ctx context.Context, store, dir string, allowOther bool, log *slog.Logger, ready func()) error {
	if err := checkMountPoint(store, dir); err != nil {
		return err
	}
	s, err := OpenStore(ctx, store, log, objstore.Options{LookOnly: true})
	if err != nil {
		return err
	}
	m, err := fs.Mount(dir, fs.Store(s), fs.Options{AllowOther: allowOther, Logger: log})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	ready()
	m.Wait()
	return s.Close()
}
