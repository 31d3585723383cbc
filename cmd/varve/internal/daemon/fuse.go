package daemon

import (
	"errors"
	"fmt"
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

func (f fuseMounter) Mount(r protocol.Mount, d volumeDevices) (mounted, error) {
	o := fs.Options{AllowOther: r.AllowOther, SharedLive: r.SharedLive, Logger: f.log}
	var pages *pageDropper
	if r.SharedLive {
		var err error
		if pages, err = startPageDropper(); err != nil {
			return nil, fmt.Errorf("start the process that drops the pages of devices: %w", err)
		}
		o.Written = func(volume string) { f.dropPages(pages, volume, d.deviceOf(volume)) }
	}
	s, err := fs.Mount(r.Dir, liveSource{f.store, d}, o)
	if err != nil {
		if pages != nil {
			err = errors.Join(err, pages.close())
		}
		return nil, err
	}
	return newFuseMount(s, r.Dir, pages), nil
}

// dropPages makes the kernel drop its cached pages of a volume's device, if it has one, because the
// volume was written through its live file.
func (f fuseMounter) dropPages(pages *pageDropper, volume, node string) {
	if node == "" {
		return
	}
	if err := pages.drop(node); err != nil {
		f.log.Warn("buffered reads of the device may show old content", "volume", volume, "device", node, "error", err)
	}
}

// liveSource adds to the store what it does not know: devices that wait for a server.
type liveSource struct {
	fs.Source
	devices volumeDevices
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
	devices volumeDevices
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

// newFuseMount watches a mount; pages, if there is one, ends with it.
func newFuseMount(s *fs.Server, dir string, pages *pageDropper) *fuseMount {
	m := &fuseMount{server: s, dir: dir, done: make(chan struct{})}
	go func() {
		s.Wait()
		if pages != nil {
			_ = pages.close() // the process ends by itself
		}
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
		return errors.Join(protocol.ErrBusy) // without its text: the caller adds its own
	}
	return err
}
