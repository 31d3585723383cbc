package devices

import (
	"slices"

	"varve/cmd/varve/internal/protocol"
)

// A restart restores devices and mounts: a daemon that is stopped records what it detaches and
// unmounts, and the next one in the same boot attaches and mounts it again, whether or not it was
// in use. A stop with Detach records nothing. Devices that are left waiting are not restored but
// taken over.

// earlier is what an earlier daemon has left and this one has not dealt with yet. Until then it
// stays in the list.
type earlier struct {
	noted    []protocol.Attachment // its devices
	starting []string              // volumes whose devices were being made
	restore  []protocol.Attachment // devices that it detached when it was stopped
	mounts   []protocol.Mount
}

// Inherit keeps what an earlier daemon has left in the list until Settled and Restored, as this
// daemon may die before.
func (t *Table) Inherit(l *List) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.earlier = earlier{noted: l.Attached, starting: l.Starting, restore: l.Restore, mounts: l.Mounts}
	t.changed++
}

// Settled is called when all devices of an earlier daemon have been dealt with.
func (t *Table) Settled() {
	t.mu.Lock()
	t.earlier.noted, t.earlier.starting = nil, nil
	t.changed++
	t.mu.Unlock()
	t.save()
}

// Restored is called when what an earlier daemon detached and unmounted was restored, as far as
// possible.
func (t *Table) Restored() {
	t.mu.Lock()
	t.earlier = earlier{}
	t.changed++
	t.mu.Unlock()
	t.save()
}

// RestoreLater records the devices and mounts that are about to go, for the next daemon; if they go
// for good, it forgets what was recorded. A device of a snapshot always goes for good, with what
// was written to it.
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
