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

func (f fuseMounter) Mount(dir string, allowOther bool) (mounted, error) {
	s, err := fs.Mount(dir, f.store, fs.Options{AllowOther: allowOther, Logger: f.log})
	if err != nil {
		return nil, err
	}
	return newFuseMount(s, dir), nil
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
