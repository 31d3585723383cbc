package devices

import (
	"slices"

	"varve/cmd/varve/internal/protocol"
)

// save writes the list if it has changed since it was written. Failing to write it may cost a
// takeover, but no data.
func (t *Table) save() {
	if t.o.Dir == "" {
		return
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	l, changed, ok := t.unwritten()
	if !ok {
		return // written meanwhile
	}
	if err := l.Write(t.o.Dir); err != nil {
		t.o.Logger.Error("the list of devices was not written; the next daemon may not find them", "error", err)
		return
	}
	t.written = changed
}

// unwritten returns the list to write, or false if the list on disk is current; writing is held.
func (t *Table) unwritten() (l List, changed uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.frozen || t.changed == t.written {
		return l, 0, false
	}
	l = List{
		Store: t.o.Instance.UUID, Instance: t.o.Instance.ID, Boot: t.o.Boot, Attached: []protocol.Attachment{}, Foreign: t.foreign,
		Restore: t.earlier.restore, Starting: slices.Clone(t.earlier.starting), Mounts: slices.Clone(t.mounts),
	}
	for _, m := range t.earlier.mounts {
		if !slices.ContainsFunc(l.Mounts, func(k protocol.Mount) bool { return k.Dir == m.Dir }) {
			l.Mounts = append(l.Mounts, m)
		}
	}
	has := map[string]bool{}
	for _, e := range t.own {
		if e.state == Attaching {
			l.Starting = append(l.Starting, e.Volume)
			continue
		}
		has[e.Device] = true
		l.Attached = append(l.Attached, e.Attachment)
	}
	for _, a := range t.earlier.noted {
		if !has[a.Device] {
			l.Attached = append(l.Attached, a)
		}
	}
	inOrder(l.Attached)
	return l, t.changed, true
}

// Freeze stops writing the list, while the devices on it move from one daemon to the next. The list
// is written when it is unfrozen.
func (t *Table) Freeze(frozen bool) {
	t.mu.Lock()
	t.frozen = frozen
	if !frozen {
		t.changed++
	}
	t.mu.Unlock()
	t.save()
}
