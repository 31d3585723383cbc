package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

func (d *Daemon) serveMount(ctx context.Context, _ *http.Request, r protocol.Mount) (protocol.Mount, error) {
	if d.mounts.mounter == nil {
		return r, protocol.ErrNeedsDaemon
	}
	if err := d.mayMount(r.Dir); err != nil {
		return r, err
	}
	// Without the turn: if the directory is on one of our own devices, looking at it may wait until
	// a change has ended, or for a device that hangs.
	check := func() error { return checkMountPoint(d.location(), r.Dir) }
	if err := d.within(ctx, check, nil); err != nil {
		return r, fmt.Errorf("mount at %s: %w", r.Dir, err)
	}
	return r, d.within(ctx, func() error { return d.mount(ctx, r) }, func(err error) {
		if err == nil { // nobody knows of it
			err = d.unmount(context.WithoutCancel(ctx), r.Dir)
		}
		d.log.Warn("a mount was given up by its client", "dir", r.Dir, "error", err)
	})
}

// mount mounts the store at a directory. If ctx ends meanwhile, it unmounts again.
func (d *Daemon) mount(ctx context.Context, r protocol.Mount) error {
	ctx, give, err := d.turns.take(ctx, turnAt(r.Dir))
	if err != nil {
		return err
	}
	defer give()
	if err := d.mayMount(r.Dir); err != nil {
		return err
	}
	if err := d.mounts.mount(r); err != nil || ctx.Err() == nil {
		return err
	}
	err = ctx.Err()
	if k := d.mounts.at(r.Dir); k != nil {
		err = errors.Join(err, d.mounts.unmount(k, true))
	}
	return fmt.Errorf("mount at %s: %w", r.Dir, err)
}

func (d *Daemon) mayMount(dir string) error {
	if d.turns.over() {
		return protocol.ErrStopping
	}
	if d.mounts.at(dir) != nil {
		return protocol.As(objstore.ErrExists, fmt.Errorf("%s: the store is mounted there", dir))
	}
	return d.open.mayTake(deviceDescriptors, 0)
}

func (d *Daemon) serveUnmount(ctx context.Context, _ *http.Request, r protocol.Unmount) (server.None, error) {
	if d.mounts.mounter == nil {
		return server.None{}, protocol.ErrNeedsDaemon
	}
	return server.None{}, d.within(ctx, func() error { return d.unmount(ctx, r.Dir) }, nil)
}

// unmount removes the mount at a directory, unless it is in use.
func (d *Daemon) unmount(ctx context.Context, dir string) error {
	_, give, err := d.turns.take(ctx, turnAt(dir))
	if err != nil {
		return err
	}
	defer give()
	k := d.mounts.at(dir)
	if k == nil {
		return protocol.As(objstore.ErrNotFound, fmt.Errorf("%s: the store is not mounted there", dir))
	}
	err = d.mounts.unmount(k, false)
	if errors.Is(err, protocol.ErrBusy) {
		return fmt.Errorf("%s: %w: %s; close what is open below it first", dir, err, holders.OfMount(dir))
	}
	return err
}

// checkMountPoint refuses a path that is not a directory, is inside the store, or contains it: a
// mount over the store would hide the store's files.
func checkMountPoint(store, dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return protocol.As(objstore.ErrInvalid, err)
	}
	if !fi.IsDir() {
		return protocol.As(objstore.ErrInvalid, fmt.Errorf("%s: not a directory", dir))
	}
	realDir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	realStore, err := filepath.EvalSymlinks(store)
	if err != nil {
		return err
	}
	// By identity too, not only by name: a bind mount shows a directory under another name.
	inStore, err := insideOf(realStore, realDir)
	if err != nil {
		return err
	}
	switch {
	case inStore || within(realStore, realDir):
		return protocol.As(objstore.ErrInvalid, fmt.Errorf("%s: it is in the store %s; mount it elsewhere", dir, store))
	case within(realDir, realStore):
		return protocol.As(objstore.ErrInvalid, fmt.Errorf("%s: it would hide the store %s; mount it elsewhere", dir, store))
	}
	return nil
}

// insideOf reports whether dir or a directory above it is store.
func insideOf(store, dir string) (bool, error) {
	want, err := os.Stat(store)
	if err != nil {
		return false, err
	}
	for {
		got, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		if os.SameFile(want, got) {
			return true, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return false, nil
		}
		dir = up
	}
}

// within reports whether path is dir or below dir; both are clean and absolute.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
