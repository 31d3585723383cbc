package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// identity is which store this is: its UUID and its instance, and the list of devices on disk that
// is bound to the instance. It is safe for concurrent use, but for adopt and renew, whose caller has
// turnOfIdentity.
type identity struct {
	inst  instance.Instance
	files string // a path to the store's files
	store interface{ NewUUID() (string, error) }
	table *devices.Table
	log   *slog.Logger

	mu   sync.Mutex
	uuid string // guarded by mu
}

// UUID returns the store's current UUID.
func (i *identity) UUID() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.uuid
}

// moved returns the devices that the store gets back if it was moved here: foreign devices without
// a server. protocol.ErrBusy if one has a server, as the store is a copy then.
func (i *identity) moved(ctx context.Context) ([]protocol.Attachment, error) {
	s, err := i.readList()
	if err != nil {
		return nil, err
	}
	list, err := machine.devices(ctx)
	if err != nil {
		return nil, err
	}
	var waiting []protocol.Attachment
	claims := instance.Claims{Noted: s.Foreign}
	foreign := claims.Index(i.inst)
	for _, d := range list {
		volume, noted := foreign.Volume(&d)
		switch {
		case !noted:
		case d.ServerAlive:
			return nil, protocol.As(protocol.ErrBusy, fmt.Errorf("%s (volume %q) is served by process %d: the store that has attached it "+
				"is still there, and this one is a copy", d.Path, volume, d.ServerPID))
		default:
			waiting = append(waiting, protocol.Attachment{Volume: volume, Device: d.Path, Transport: "ublk", ID: d.ID})
		}
	}
	return waiting, nil
}

// adopt makes the foreign devices of the list the store's own. No daemon serves the store.
//
// REQUIRES: the caller has turnOfIdentity.
func (i *identity) adopt() error {
	s, err := i.readList()
	if err != nil {
		return err
	}
	for _, a := range s.Foreign {
		if !slices.ContainsFunc(s.Attached, func(own protocol.Attachment) bool { return own.Volume == a.Volume }) {
			s.Attached = append(s.Attached, a)
		}
	}
	s.Foreign = nil
	if err := i.writeList(s); err != nil {
		return err
	}
	i.table.SetForeign(nil)
	return nil
}

// renew assigns a new UUID to the store, and drops the foreign devices. A daemon's table writes the
// list itself; without a daemon renew does.
//
// REQUIRES: the caller has turnOfIdentity.
func (i *identity) renew(daemon bool) error {
	uuid, err := i.store.NewUUID()
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.uuid = uuid
	i.mu.Unlock()
	i.table.SetForeign(nil)
	i.log.Info("the store has a new UUID", "uuid", uuid)
	if daemon {
		return nil
	}
	s, err := i.readList()
	if err != nil {
		return err
	}
	s.Foreign = nil
	return i.writeList(s)
}

// readList returns the list of devices on disk. What belongs to another instance of the store is
// among its foreign devices.
func (i *identity) readList() (devices.List, error) {
	s, err := devices.ReadList(i.files)
	if err == nil {
		s.Bind(i.inst, boot(i.log))
	}
	return s, err
}

// writeList writes a list of devices that is bound to this instance and boot.
func (i *identity) writeList(s devices.List) error {
	s.Store, s.Instance, s.Boot = i.inst.UUID, i.inst.ID, boot(i.log)
	for n := range s.Attached {
		s.Attached[n].State, s.Attached[n].Error = "", ""
	}
	return s.Write(i.files)
}

// errDaemonRuns refuses to take a store for a moved one while a daemon serves it.
var errDaemonRuns = protocol.As(protocol.ErrBusy,
	errors.New("a daemon serves the store; stop it first: varve stop"))
