package daemon

import (
	"errors"
	"log/slog"

	"varve/cmd/varve/internal/protocol"
	"varve/fs"
	"varve/objstore"
)

// fuseMounter mounts a store through FUSE.
type fuseMounter struct {
	store fs.Source
	log   *slog.Logger
}

func newMounter(store *objstore.Store, files *descriptors, log *slog.Logger) mounter {
	return fuseMounter{newSparing(store, files), log}
}

func (f fuseMounter) Mount(r protocol.Mount, d devices) (mounted, error) {
	s, err := fs.Mount(r.Dir, liveSource{f.store, d}, fs.Options{
		AllowOther: r.AllowOther, SharedLive: r.SharedLive, Written: d.dropDevicePages, Logger: f.log,
	})
	if err != nil {
		return nil, err
	}
	return newFuseMount(s, r.Dir), nil
}

// liveSource knows of devices that wait for a server, of which the store knows nothing.
type liveSource struct {
	fs.Source
	devices devices
}

func (s liveSource) OpenVolume(name, user string) (fs.Volume, error) {
	v, err := s.Source.OpenVolume(name, user)
	if err != nil {
		return nil, err
	}
	return liveVolume{v, name, s.devices}, nil
}

type liveVolume struct {
	fs.Volume
	name    string
	devices devices
}

// Claim implements fs.Volume.
func (v liveVolume) Claim(side objstore.Side) (release func(), err error) {
	if side == objstore.SideLive {
		if err := v.devices.mayWriteLive(v.name); err != nil {
			return nil, err
		}
	}
	return v.Volume.Claim(side)
}

type fuseMount struct {
	server *fs.Server
	dir    string
	done   chan struct{}
}

func newFuseMount(s *fs.Server, dir string) *fuseMount {
	m := &fuseMount{server: s, dir: dir, done: make(chan struct{})}
	go func() {
		s.Wait()
		close(m.done)
	}()
	return m
}

func (m *fuseMount) Done() <-chan struct{} { return m.done }

// Busy implements mounted.
func (m *fuseMount) Busy() bool { return mountInUse(m.dir) }

// Refresh implements mounted.
func (m *fuseMount) Refresh(volume string) { m.server.Refresh(volume) }

func (m *fuseMount) Unmount(force bool) error {
	if force {
		return m.server.ForceUnmount()
	}
	err := m.server.Unmount()
	if errors.Is(err, fs.ErrBusy) {
		return errors.Join(protocol.ErrBusy) // its text is for us to write
	}
	return err
}
