package daemon

import (
	"context"
	"log/slog"
	"slices"

	"github.com/google/uuid"

	"varve/blockdev"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// orphans are the devices that wait for a server.
type orphans struct {
	in      instance.Instance
	own     []protocol.Attachment // of the store, by the list that its last daemon wrote
	foreign []protocol.Attachment // of the store that it may be a copy of
}

// waitingDevices returns the orphans of the store in dir, which is not open yet.
func waitingDevices(ctx context.Context, dir string, log *slog.Logger) (o orphans) {
	s, err := devices.ReadList(dir)
	if err != nil {
		log.Error("devices of an earlier daemon, if any, are unknown", "error", err)
		return o
	}
	in, err := instance.At(dir, s.Store)
	if err != nil {
		log.Error("devices of an earlier daemon, if any, are unknown", "error", err)
		return o
	}
	o.in = in
	if s.Bind(in, boot(log)); len(s.Attached)+len(s.Foreign) == 0 {
		return o
	}
	list, err := machine.devices(ctx)
	o.own = ownOf(list, in, s.Claims(), (*blockdev.DeviceInfo).Orphan)
	o.foreign = ownOf(list, in, instance.Claims{Noted: s.Foreign}, (*blockdev.DeviceInfo).Orphan)
	if err != nil {
		log.Error("not all devices are known; those that an earlier daemon has noted count as waiting", "error", err)
		o.own = andNoted(o.own, s.Attached, "ublk")
		o.foreign = andNoted(o.foreign, s.Foreign, "ublk")
	}
	for i := range o.foreign {
		o.foreign[i].State, o.foreign[i].Error = protocol.StateForeign, foreignWaits
	}
	return o
}

// hasOwn reports whether a device of the volume with this mark name waits. The name in lists does
// not count, as the volume may have been renamed since.
func (o orphans) hasOwn(markName string) bool {
	return slices.ContainsFunc(o.own, func(a protocol.Attachment) bool {
		return a.Mark == o.in.Mark(markName) || a.Mark == o.in.OldMark(markName) || a.Mark == 0 && a.Volume == markName
	})
}

// mayConcern reports whether a device waits that another instance of the store may have made for
// this volume. Its mark does not help, as it is made from that instance. Lists of earlier versions
// have no volume IDs; there the name of the volume suffices.
func (o orphans) mayConcern(id uuid.UUID, names []string) bool {
	return slices.ContainsFunc(o.foreign, func(a protocol.Attachment) bool {
		return a.VolumeID == id.String() || a.VolumeID == "" && slices.Contains(names, a.Volume)
	})
}

// NotedVolumes returns the volumes of the ublk devices in the list of the last daemon of the store
// in dir, for commands that find no daemon. The mark in the driver tells whether a device number
// still belongs to that device.
func NotedVolumes(dir string, list []blockdev.DeviceInfo) map[string]string {
	names := map[string]string{}
	s, err := devices.ReadList(dir)
	if err != nil {
		return names
	}
	in, err := instance.At(dir, s.Store)
	if err != nil {
		return names
	}
	s.Bind(in, boot(slog.New(slog.DiscardHandler)))
	claims := s.Claims()
	own := claims.Index(in)
	for _, i := range list {
		if volume, ours := own.Volume(&i); ours {
			names[i.Path] = volume
		}
	}
	return names
}
