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

func (d *Daemon) serveMount(_ context.Context, _ *http.Request, r protocol.Mount) (protocol.Mount, error) {
	if d.mounts.mounter == nil {
		return r, protocol.ErrNeedsDaemon
	}
	if err := d.mayMount(r.Dir); err != nil {
		return r, err
	}
	// Without d.change: if the directory is on one of our own devices, looking at it may wait until
	// a change has ended.
	if err := checkMountPoint(d.location(), r.Dir); err != nil {
		return r, err
	}
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.mayMount(r.Dir); err != nil {
		return r, err
	}
	return r, d.mounts.mount(r)
}

func (d *Daemon) mayMount(dir string) error {
	if d.stopping.Load() {
		return protocol.ErrStopping
	}
	if d.mounts.at(dir) != nil {
		return protocol.As(objstore.ErrExists, fmt.Errorf("%s: the store is mounted there", dir))
	}
	return d.open.mayTake(deviceDescriptors, 0)
}

func (d *Daemon) serveUnmount(_ context.Context, _ *http.Request, r protocol.Unmount) (server.None, error) {
	if d.mounts.mounter == nil {
		return server.None{}, protocol.ErrNeedsDaemon
	}
	d.change.Lock()
	defer d.change.Unlock()
	k := d.mounts.at(r.Dir)
	if k == nil {
		return server.None{}, protocol.As(objstore.ErrNotFound, fmt.Errorf("%s: the store is not mounted there", r.Dir))
	}
	if err := d.mounts.unmount(k, false); err != nil {
		if errors.Is(err, protocol.ErrBusy) {
			return server.None{}, fmt.Errorf("%s: %w: %s; close what is open below it first", r.Dir, err, holders.OfMount(r.Dir))
		}
		return server.None{}, err
	}
	return server.None{}, nil
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
