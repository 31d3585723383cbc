package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// mounted returns the mounts.
func (d *Daemon) mounted() []*mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.mounts))
}

// noteMounts has the list on disk say what is mounted.
func (d *Daemon) noteMounts() {
	d.noting.Lock()
	defer d.noting.Unlock()
	d.table.SetMounts(d.mountList())
}

// mountList describes the mounts, in order of directory.
func (d *Daemon) mountList() []protocol.Mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]protocol.Mount, 0, len(d.mounts))
	for _, m := range d.mounts {
		list = append(list, m.Mount)
	}
	slices.SortFunc(list, func(a, b protocol.Mount) int { return cmp.Compare(a.Dir, b.Dir) })
	return list
}

func (d *Daemon) serveMount(_ context.Context, _ *http.Request, r protocol.Mount) (protocol.Mount, error) {
	if d.mounter == nil {
		return r, protocol.ErrNeedsDaemon
	}
	if err := d.mayMount(r.Dir); err != nil {
		return r, err
	}
	// A look at the directory may wait for long, if it lies on one of our own devices for the end of a change.
	if err := checkMountPoint(d.location(), r.Dir); err != nil {
		return r, err
	}
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.mayMount(r.Dir); err != nil {
		return r, err
	}
	return r, d.mount(r)
}

func (d *Daemon) mayMount(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return protocol.ErrStopping
	}
	if d.mounts[dir] != nil {
		return protocol.As(objstore.ErrExists, fmt.Errorf("%s: the store is mounted there", dir))
	}
	return d.open.mayTake(deviceDescriptors, 0)
}

// mount mounts; change is held.
func (d *Daemon) mount(r protocol.Mount) error {
	m, err := d.mounter.Mount(r, d)
	if err != nil {
		return err
	}
	k := &mount{Mount: r, m: m}
	d.mu.Lock()
	d.mounts[r.Dir] = k
	d.mu.Unlock()
	d.noteMounts()
	d.log.Info("mounted", "dir", r.Dir, "allow_other", r.AllowOther)
	d.watchers.Go(func() {
		<-m.Done()
		if ours := d.dropMount(k); !ours {
			d.log.Info("unmounted by somebody else", "dir", r.Dir)
		}
	})
	return nil
}

// dropMount takes a mount that is gone from the lists, and reports whether this daemon has taken it away. When it returns,
// the list on disk has the mount no more, whoever has dropped it first.
func (d *Daemon) dropMount(k *mount) (ours bool) {
	d.mu.Lock()
	if d.mounts[k.Dir] == k {
		delete(d.mounts, k.Dir)
	}
	ours = k.leaving
	d.mu.Unlock()
	d.noteMounts()
	return ours
}

func (d *Daemon) serveUnmount(_ context.Context, _ *http.Request, r protocol.Unmount) (server.None, error) {
	if d.mounter == nil {
		return server.None{}, protocol.ErrNeedsDaemon
	}
	d.change.Lock()
	defer d.change.Unlock()
	d.mu.Lock()
	k := d.mounts[r.Dir]
	d.mu.Unlock()
	if k == nil {
		return server.None{}, protocol.As(objstore.ErrNotFound, fmt.Errorf("%s: the store is not mounted there", r.Dir))
	}
	if err := d.unmount(k, false); err != nil {
		if errors.Is(err, protocol.ErrBusy) {
			return server.None{}, fmt.Errorf("%s: %w: %s; close what is open below it first", r.Dir, err, holders.OfMount(r.Dir))
		}
		return server.None{}, err
	}
	return server.None{}, nil
}

// unmount takes a mount away; change is held. By force it goes while files are open, which fail from then on.
func (d *Daemon) unmount(k *mount, force bool) error {
	d.mu.Lock()
	k.leaving = true
	d.mu.Unlock()
	err := k.m.Unmount(force)
	if err != nil {
		d.mu.Lock()
		k.leaving = false
		d.mu.Unlock()
		return err
	}
	d.dropMount(k)
	d.log.Info("unmounted", "dir", k.Dir, "force", force)
	return nil
}

// checkMountPoint refuses what is no directory, and what lies in the store or over it: a mount over the store
// hides the files that it is made of.
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
	// By what they are, not only by their names: a bind mount gives a directory another one.
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

// insideOf says whether dir is the directory store, or one of those above dir is.
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

// within says whether path is dir or below it; both are clean and absolute.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
