package devices

import (
	"slices"
	"time"

	"varve/cmd/varve/internal/protocol"
)

// Taken returns a volume's device, in any state, or false if it has none.
func (t *Table) Taken(volume string) (protocol.Attachment, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.own[volume]; e != nil && e.state != Attaching {
		return e.Attachment, true
	}
	return protocol.Attachment{}, false
}

// MayHave reports whether a volume has a device, or may have one that this daemon does not serve: a
// waiting, foreign and undecided, or leftover one.
func (t *Table) MayHave(volume string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own[volume] != nil || slices.Contains(t.left, volume) ||
		slices.ContainsFunc(t.foreign, func(a protocol.Attachment) bool { return a.Volume == volume })
}

// Served returns the devices that this daemon serves, including those that are being detached, in
// order of volume.
func (t *Table) Served() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*Entry
	for _, e := range t.own {
		if e.state == Served || e.state == Detaching {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *Entry) int {
		if a.Volume < b.Volume {
			return -1
		}
		return 1
	})
	return list
}

// Unplanned returns the devices that wait although the daemon could not serve them, and for which
// no other try is planned, in no order.
func (t *Table) Unplanned() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*Entry
	for _, e := range t.own {
		if e.state == Waiting && e.reason != nil && e.quit == nil {
			list = append(list, e)
		}
	}
	return list
}

// Making returns how many devices are being made.
func (t *Table) Making() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, e := range t.own {
		if e.state == Attaching {
			n++
		}
	}
	return n
}

// Attachments describes the devices that this daemon serves, in order of volume.
func (t *Table) Attachments() []protocol.Attachment {
	list := []protocol.Attachment{}
	served := t.Served()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range served {
		list = append(list, e.Attachment)
	}
	return list
}

// Describe returns the description of a device.
func (t *Table) Describe(e *Entry) protocol.Attachment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.current().Attachment
}

// All describes all devices, in order of volume, for the daemon itself.
func (t *Table) All() []protocol.Attachment {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []protocol.Attachment{}
	for _, e := range t.own {
		if e.state != Attaching {
			list = append(list, e.Attachment)
		}
	}
	return inOrder(list)
}

// Shown describes all devices with their states, in order of volume, as clients see them.
func (t *Table) Shown() []protocol.Attachment {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []protocol.Attachment{}
	for _, e := range t.own {
		if e.state != Attaching {
			list = append(list, e.shown())
		}
	}
	return inOrder(list)
}

// shown describes a device as clients see it; the table's lock is held.
func (e *Entry) shown() protocol.Attachment {
	a := e.Attachment
	a.State = protocol.StateServed
	if e.state == Waiting {
		a.State = protocol.StateWaiting
		if e.reason != nil {
			a.Error = e.reason.Error()
		}
		if e.quit != nil {
			a.RetryAt = e.next.UTC().Truncate(time.Second)
		}
	}
	return a.Shown()
}

// Foreign describes the foreign devices, in order of volume.
func (t *Table) Foreign() []protocol.Attachment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return inOrder(slices.Clone(t.foreign))
}

// Find returns the device of a volume, or the one whose node is given, if this daemon serves it.
func (t *Table) Find(volume, node string) *Entry {
	return t.find(volume, node, Served, Detaching)
}

// FindWaiting is Find for waiting devices.
func (t *Table) FindWaiting(volume, node string) *Entry {
	return t.find(volume, node, Waiting)
}

func (t *Table) find(volume, node string, states ...State) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.own[volume]; e != nil && slices.Contains(states, e.state) {
		return e
	}
	for _, e := range t.own {
		if e.Device == node && slices.Contains(states, e.state) {
			return e
		}
	}
	return nil
}
