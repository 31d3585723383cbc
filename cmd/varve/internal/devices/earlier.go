package devices

import (
	"slices"

	"varve/cmd/varve/internal/protocol"
)

// A restart of the service brings back devices and mounts: a daemon that is stopped notes what it detaches and unmounts,
// and the next one of the same boot attaches and mounts that again, whether or not it was in use. Stop with Detach notes
// nothing. Devices that are left waiting are no part of this; they are taken over.

// earlier is what an earlier daemon has left, as far as it was not seen to yet. It stays in the list until then.
type earlier struct {
	noted    []protocol.Attachment // its devices
	starting []string              // volumes whose devices were being made
	restore  []protocol.Attachment // devices that it detached when it was stopped
	mounts   []protocol.Mount
}

// Inherit keeps in the list what an earlier daemon has left, until Settled and Restored: this daemon may die before.
func (t *Table) Inherit(l *List) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.earlier = earlier{noted: l.Attached, starting: l.Starting, restore: l.Restore, mounts: l.Mounts}
	t.changed++
}

// Settled says that all devices of an earlier daemon have been seen to.
func (t *Table) Settled() {
	t.mu.Lock()
	t.earlier.noted, t.earlier.starting = nil, nil
	t.changed++
	t.mu.Unlock()
	t.save()
}

// Restored says that what an earlier daemon has let go of when it was stopped was brought back, or can't be.
func (t *Table) Restored() {
	t.mu.Lock()
	t.earlier = earlier{}
	t.changed++
	t.mu.Unlock()
	t.save()
}

// RestoreLater notes the devices and mounts that are about to go, for the next daemon; if they go for good, it forgets what
// was noted. A device of a snapshot goes for good in any case, with what was written to it.
func (t *Table) RestoreLater(devices []*Entry, mounts []protocol.Mount, forGood bool) {
	t.mu.Lock()
	if forGood {
		t.earlier.restore, t.earlier.mounts = nil, nil
	} else {
		for _, e := range devices {
			if e.Snapshot == "" {
				t.earlier.restore = append(t.earlier.restore, e.Attachment)
			}
		}
		t.earlier.mounts = slices.Concat(t.earlier.mounts, mounts)
	}
	t.changed++
	t.mu.Unlock()
	t.save()
}
