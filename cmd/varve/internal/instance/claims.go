package instance

import (
	"varve/blockdev"
	"varve/cmd/varve/internal/protocol"
)

// Claims are the reasons why a device may belong to a store, the strongest first.
type Claims struct {
	Volumes []Volume              // of the store; their devices have the marks of the instance
	Noted   []protocol.Attachment // of the list of devices, with their marks
	Names   []string              // of volumes, from the list; Volumes is better if the store is open
}

// Volume is a volume as the store knows it.
type Volume struct {
	Name     string
	MarkName string // objstore.VolumeInfo.MarkName
}

// AnyNumber is the ID of a noted device that was never started, and is known by its mark alone.
const AnyNumber = -1

// Index looks devices up in Claims.
type Index struct {
	byMark map[uint64]string // the volume
	noted  map[uint64][]protocol.Attachment
	byName map[uint64]string // the volume, by the mark of one that has not been renamed
}

// Index makes the index of the claims of an instance.
func (c *Claims) Index(in Instance) *Index {
	x := &Index{byMark: make(map[uint64]string, len(c.Volumes)), noted: map[uint64][]protocol.Attachment{}, byName: map[uint64]string{}}
	for _, v := range c.Volumes {
		x.byMark[in.Mark(v.MarkName)] = v.Name
	}
	for _, name := range c.Names {
		x.byName[in.Mark(name)] = name
	}
	for _, a := range c.Noted {
		if a.Mark != 0 {
			x.noted[a.Mark] = append(x.noted[a.Mark], a)
		}
	}
	return x
}

// Volume returns the volume of a device, or false if the device does not belong to the store.
func (x *Index) Volume(i *blockdev.DeviceInfo) (volume string, ours bool) {
	if v, ok := x.byMark[i.Owner]; ok {
		return v, true
	}
	for _, a := range x.noted[i.Owner] {
		if a.ID == i.ID || a.ID == AnyNumber && i.Unstarted() {
			return a.Volume, true
		}
	}
	v, ok := x.byName[i.Owner]
	return v, ok
}
