// Package devices is the table of a daemon's devices, and the list of them on disk.
//
// A volume has at most one device, which is in one of these states; the kernel does not know all of
// them:
//
//	          Begin              Serve              BeginDetach
//	None ────────────> Attaching ───────> Served <──────────────> Detaching
//	^  │                   │              ^    │       Stay           │
//	│  └── Expect ──┐      │ Drop   Serve │    │ Lose                 │ Drop
//	│              v       v              │    v                      v
//	│           Waiting ──────────────────┘  Waiting <── Leave ──   None
//	└── Forget ────┘
//
// The caller that moves a device to Attaching or Detaching owns it until it moves the device on. A
// device that is Served or Waiting has no owner: its service may end, or a retry may begin, at any
// time. So an Entry stands for one period of service or waiting, and has no effect once the next
// period has begun. The table transitions has all moves.
//
// The table also has foreign devices: those in a list that was copied with a store, or that is from
// before the store was moved. They are shown, and left alone.
//
// The list on disk (List) tells the next daemon what to look for if this one dies. It has a device
// from before the device is made until after it is gone: a method that changes the list returns
// when the list is written. Concurrent changes share one write.
//
// The table's lock guards memory, and is never held over I/O; writing the list has its own lock.
// The table calls no method of a Device; its users do, without holding a lock of the table.
package devices

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
)

// Options of a Table.
type Options struct {
	Dir      string            // the store, which has the list; "": no list is written
	Instance instance.Instance // of the store
	Boot     string            // vfs.BootID
	Logger   *slog.Logger
}

// Table is safe for concurrent use.
type Table struct {
	o Options

	mu      sync.Mutex
	own     map[string]*Entry     // by volume
	foreign []protocol.Attachment // guarded by mu, like what follows
	left    []string              // volumes that may have a leftover device
	mounts  []protocol.Mount
	earlier earlier
	frozen  bool   // the list on disk is not written
	changed uint64 // counts the changes to the list

	writing sync.Mutex // held while the list is written; taken before mu
	written uint64     // the value of changed that is on disk; guarded by writing
}

// Entry is one period of a device in a state. Its exported fields do not change, see
// Table.SetMountedAt and Table.Rename.
type Entry struct {
	protocol.Attachment
	Dev   Device    // of one that is served
	Began time.Time // the service

	state State // guarded by Table.mu, like what follows

	// If it waits:
	reason error         // why; nil: it is left to the next daemon, or is being taken over
	pause  time.Duration // before the next try
	next   time.Time
	quit   chan struct{} // closed when there will be no next try; nil: none was planned

	moved *Entry // the same period, after its volume or snapshot was renamed
}

// New returns an empty table.
func New(o Options) *Table { return &Table{o: o, own: map[string]*Entry{}} }

// state is of a volume's device; mu is held.
func (t *Table) state(volume string) State {
	if e := t.own[volume]; e != nil {
		return e.state
	}
	return None
}

// put begins the next period of a volume's device, or removes the device if e is nil; mu is held.
func (t *Table) put(volume string, e *Entry) {
	before := t.own[volume]
	to := None
	if e != nil {
		to = e.state
	}
	move(volume, t.state(volume), to)
	if before != nil && before.quit != nil {
		close(before.quit)
		before.quit = nil
	}
	if e == nil {
		delete(t.own, volume)
	} else {
		t.own[volume] = e
	}
	if before == nil || e == nil || before.Attachment != e.Attachment || (before.state == Attaching) != (to == Attaching) {
		t.changed++
	}
}

// Begin reserves a volume for a device that is about to be made, and enters it into the list, so
// that the next daemon looks for the device if this one dies. If the volume already has a device,
// Begin returns that device and false.
func (t *Table) Begin(volume string) (protocol.Attachment, bool) {
	t.mu.Lock()
	if e := t.own[volume]; e != nil {
		defer t.mu.Unlock()
		return e.Attachment, false
	}
	t.put(volume, &Entry{Attachment: protocol.Attachment{Volume: volume}, state: Attaching})
	t.mu.Unlock()
	t.save()
	return protocol.Attachment{}, true
}

// Expect enters devices of an earlier daemon that are about to be taken over, with one write of the
// list. It skips volumes that already have a device.
func (t *Table) Expect(list []protocol.Attachment) {
	t.mu.Lock()
	for _, a := range list {
		if t.own[a.Volume] == nil {
			t.put(a.Volume, &Entry{Attachment: a, state: Waiting})
		}
	}
	t.mu.Unlock()
	t.save()
}

// Serve begins the service of a device that was made, or was waiting.
func (t *Table) Serve(a protocol.Attachment, dev Device) *Entry {
	e := &Entry{Attachment: a, Dev: dev, Began: time.Now(), state: Served}
	t.mu.Lock()
	t.put(a.Volume, e)
	t.earlier.restore = withoutVolume(t.earlier.restore, a.Volume)
	t.mu.Unlock()
	t.save()
	return e
}

// withoutVolume returns a list without the devices of a volume.
func withoutVolume(list []protocol.Attachment, volume string) []protocol.Attachment {
	return slices.DeleteFunc(slices.Clone(list), func(a protocol.Attachment) bool { return a.Volume == volume })
}

// is reports whether the entry is the volume's, in one of the states; mu is held.
func (t *Table) is(e *Entry, states ...State) bool {
	return t.own[e.Volume] == e && slices.Contains(states, e.state)
}

// current returns the entry that stands for the period of e since its volume was renamed; mu is
// held.
func (e *Entry) current() *Entry {
	for e.moved != nil {
		e = e.moved
	}
	return e
}

// Current returns the entry of the same period with the current names.
func (t *Table) Current(e *Entry) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.current()
}

// Rename replaces the names of volumes and snapshots by those that rename returns for a device. An
// Entry never changes its names: its period continues in another Entry, which Current returns.
// Rename must not run while a device is being made.
func (t *Table) Rename(rename func(protocol.Attachment) protocol.Attachment) {
	t.mu.Lock()
	for _, e := range slices.Collect(maps.Values(t.own)) {
		a := rename(e.Attachment)
		if a == e.Attachment {
			continue
		}
		now := *e
		now.Attachment = a
		e.moved, e.quit = &now, nil // the new entry has the channel
		if t.own[e.Volume] == e {
			delete(t.own, e.Volume)
		}
		t.own[a.Volume] = &now
		t.changed++
	}
	t.mu.Unlock()
	t.save()
}

// BeginDetach moves a served device to Detaching. It returns false if the device is not served any
// more, or is being detached by another caller.
func (t *Table) BeginDetach(e *Entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e = e.current(); !t.is(e, Served) {
		return false
	}
	e.to(Detaching)
	return true
}

// to changes the state of an entry within its period; mu is held.
func (e *Entry) to(s State) {
	move(e.Volume, e.state, s)
	e.state = s
}

// Stay moves a device whose detach was refused back to Served.
func (t *Table) Stay(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e = e.current(); t.is(e, Detaching) {
		e.to(Served)
	}
}

// Leave moves a device from Detaching to Waiting, for the next daemon.
func (t *Table) Leave(e *Entry) {
	t.mu.Lock()
	if e = e.current(); t.is(e, Detaching) {
		t.put(e.Volume, &Entry{Attachment: e.Attachment, state: Waiting})
	}
	t.mu.Unlock()
	t.save()
}

// Lose moves a device whose service has ended by itself to Waiting. It returns nil if the daemon
// ended the service, or if the period of service is already over.
func (t *Table) Lose(e *Entry, reason error) *Entry {
	t.mu.Lock()
	if e = e.current(); !t.is(e, Served) {
		t.mu.Unlock()
		return nil
	}
	w := &Entry{Attachment: e.Attachment, Began: e.Began, state: Waiting, reason: reason}
	t.put(e.Volume, w)
	t.mu.Unlock()
	t.save()
	return w
}

// Postpone moves a device to Waiting until another try, after a pause of first, or twice the last
// pause, but at most longest. quit is closed if that try is cancelled.
func (t *Table) Postpone(a protocol.Attachment, reason error, first, longest time.Duration) (w *Entry, pause time.Duration, quit <-chan struct{}) {
	w = &Entry{Attachment: a, state: Waiting, reason: reason, pause: first, quit: make(chan struct{})}
	t.mu.Lock()
	if before := t.own[a.Volume]; before != nil && before.quit != nil {
		w.pause = min(2*before.pause, longest)
	}
	w.next = time.Now().Add(w.pause)
	quit = w.quit
	t.put(a.Volume, w)
	t.mu.Unlock()
	t.save()
	return w, w.pause, quit
}

// Explain records why a device waits, if it does and that is not known yet.
func (t *Table) Explain(a protocol.Attachment, reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.own[a.Volume]; e != nil && e.state == Waiting && e.Device == a.Device && e.reason == nil {
		e.reason = reason
	}
}

// StopRetries cancels all planned tries: waiting devices are left to the next daemon.
func (t *Table) StopRetries() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.own {
		if e.quit != nil {
			close(e.quit)
			e.quit = nil
		}
	}
}

// StillWaits reports whether the entry's period of waiting has not ended.
func (t *Table) StillWaits(w *Entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.is(w.current(), Waiting)
}

// StillServed reports whether the entry's period of service has not ended.
func (t *Table) StillServed(e *Entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.is(e.current(), Served)
}

// Forget removes a waiting device. It does nothing if another device of the volume waits, or is
// served.
func (t *Table) Forget(a protocol.Attachment) {
	t.mu.Lock()
	if e := t.own[a.Volume]; e != nil && e.state == Waiting && e.Device == a.Device {
		t.put(a.Volume, nil)
	}
	t.mu.Unlock()
	t.save()
}

// Drop removes a device that was detached, or could not be made.
func (t *Table) Drop(volume string) {
	t.mu.Lock()
	if s := t.state(volume); s == Attaching || s == Detaching {
		t.put(volume, nil)
	}
	t.mu.Unlock()
	t.save()
}

// SetMountedAt records where the file system of a device is mounted: the device is detached when it
// is not mounted any more. It returns nil if no such device is served.
func (t *Table) SetMountedAt(device, dir string) *Entry {
	t.mu.Lock()
	var found *Entry
	for _, e := range t.own {
		if e.state == Served && e.Device == device {
			e.MountedAt = dir
			t.changed++
			found = e
		}
	}
	t.mu.Unlock()
	t.save()
	return found
}

// SetMounts sets the mounts in the list.
func (t *Table) SetMounts(list []protocol.Mount) {
	t.mu.Lock()
	t.mounts = list
	t.changed++
	t.mu.Unlock()
	t.save()
}

// SetForeign replaces the foreign devices.
func (t *Table) SetForeign(list []protocol.Attachment) {
	t.mu.Lock()
	t.foreign = list
	t.changed++
	t.mu.Unlock()
	t.save()
}

// NoteLeft records that a device of the volume could not be removed, and may be left over.
func (t *Table) NoteLeft(volume string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = append(t.left, volume)
}

// inOrder sorts a list by volume.
func inOrder(list []protocol.Attachment) []protocol.Attachment {
	slices.SortFunc(list, func(a, b protocol.Attachment) int { return cmp.Compare(a.Volume, b.Volume) })
	return list
}
