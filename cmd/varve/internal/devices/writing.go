package devices

import (
	"slices"

	"varve/cmd/varve/internal/protocol"
)

// save writes the list if it has changed since it was written. One that can't be written costs a takeover, not data.
func (t *Table) save() {
	if t.o.Dir == "" {
		return
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	l, changed, ok := t.unwritten()
	if !ok {
		return // somebody has written it meanwhile
	}
	if err := l.Write(t.o.Dir); err != nil {
		t.o.Logger.Error("a next daemon may not find these devices: the list of them was not written", "error", err)
		return
	}
	t.written = changed
}

// unwritten returns what the list has to say; false: the list on disk says so. writing is held.
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

// Freeze keeps the list on disk as it is, while what is on it goes from one daemon to the next; it is written when that is
// over.
func (t *Table) Freeze(frozen bool) {
	t.mu.Lock()
	t.frozen = frozen
	if !frozen {
		t.changed++
	}
	t.mu.Unlock()
	t.save()
}
