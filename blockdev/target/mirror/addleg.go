package mirror

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"varve/blockdev/target/backing"
	"varve/uring/queue"
)

// AddLeg brings a leg back that is out, or with format puts a file in the place of one that is out,
// whose content is lost. It returns when the leg is written again; the copy of what it lacks goes on.
// It may block.
func (m *Mirror) AddLeg(path string, format bool) error {
	if m.lim.ReadOnly {
		return fmt.Errorf("%w: the mirror is read only", queue.ErrInvalid)
	}
	f, fresh, err := m.openLeg(path)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	select {
	case m.asks <- func() { done <- m.add(f, format) }:
		err = <-done
	case <-m.quit:
		err = errClosing
	}
	if err != nil && fresh {
		err = errors.Join(err, f.Close())
	}
	return err
}

// openLeg opens a file, or returns the one that a leg which is out still has open: a file that is
// locked, or a block device, can't be opened twice.
func (m *Mirror) openLeg(path string) (f *backing.File, fresh bool, err error) {
	m.mu.Lock()
	for i, l := range m.legs {
		if l != nil && sameFile(path, l.file.FD()) {
			if m.state.parts[i] != partOut {
				err = fmt.Errorf("%w: %s is leg %d, which is %v", queue.ErrInvalid, path, i, m.state.parts[i])
			}
			f = l.file
		}
	}
	m.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	if f != nil {
		if err := f.ReadAt(backing.Memory(stateSize), 0); err == nil {
			return f, false, nil
		}
	}
	if f, err = backing.Open(path, backing.Options{Buffered: m.options.Buffered}); err != nil {
		return nil, false, err
	}
	switch {
	case f.Size() < DataOffset+m.size:
		err = fmt.Errorf("%w: %s has %d bytes; a leg of the mirror needs %d", queue.ErrInvalid, path, f.Size(), DataOffset+m.size)
	case f.OffAlign() > m.lim.BlockSize || f.MemAlign() > m.lim.DMAAlign:
		err = fmt.Errorf("%w: direct I/O to %s has to be aligned to %d bytes, in memory to %d, which the device does not do; use buffered I/O",
			queue.ErrInvalid, path, f.OffAlign(), f.MemAlign())
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, true, nil
}

func sameFile(path string, fd int) bool {
	var a, b unix.Stat_t
	return unix.Stat(path, &a) == nil && unix.Fstat(fd, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino && a.Rdev == b.Rdev
}

// add is AddLeg: the keeper's.
func (m *Mirror) add(f *backing.File, format bool) error {
	old, err := m.rejoin(f, format, func(l *leg) { l.file = f })
	if err == nil && old != nil && old.file != f {
		m.retired = append(m.retired, old.file)
	}
	return err
}

// rejoin makes a file a leg that is resyncing, and returns the leg that had the place.
func (a *array) rejoin(d disk, format bool, made func(*leg)) (old *leg, err error) {
	i, slot, whole, err := a.place(d, format)
	if err != nil {
		return nil, err
	}
	bits := a.intent.clone()
	a.mu.Lock()
	now := a.state
	a.mu.Unlock()
	if whole {
		bits.setAll()
		pages := map[int]bool{}
		for page := range bits.pages() {
			pages[page] = true
		}
		if failed, err := a.writePages(bits, pages, true); failed != 0 && !a.failed(failed, err) {
			return nil, err
		}
		a.mu.Lock()
		a.intent = bits
		a.mu.Unlock()
	}
	if err := prepare(d, &now, i, bits, whole); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", d.Path(), err)
	}
	l := &leg{disk: d, slot: slot}
	made(l)
	a.mu.Lock()
	old, a.legs[i] = a.legs[i], l
	a.mu.Unlock()
	err = a.commit(func(s *state) { s.parts[i] = partResyncing })
	a.mu.Lock()
	if err != nil {
		a.legs[i] = old
	} else {
		a.stale = a.intent.clone()
		a.skipped.clearAll()
		a.joins++
	}
	a.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, a.commit(func(*state) {})) // some legs may have it
	}
	a.kick()
	return old, nil
}

// prepare writes the bitmap of a leg that comes back. With whole its states, which may have more
// events than the set's, make room for one that says that it is out.
func prepare(d disk, s *state, index int, b *bitmap, whole bool) error {
	p := backing.Memory(pageSize)
	for i := range slots {
		if !whole {
			break
		}
		s.encode(p, index)
		if err := d.WriteAt(p, int64(i)*stateSize); err != nil {
			return err
		}
	}
	for page := range b.pages() {
		b.encodePage(p, page)
		if err := d.WriteAt(p, pageOffset(page)); err != nil {
			return err
		}
	}
	return d.Sync()
}

// place returns which leg a file becomes, the slot that its next state does not go to, and whether
// all of it is to be copied.
func (a *array) place(d disk, format bool) (i, slot int, whole bool, err error) {
	s, i, slot, err := readState(d)
	ours := err == nil && s.sameSet(&a.state)
	switch {
	case err == nil && !ours:
		return 0, 0, false, fmt.Errorf("%w: %s is a leg of the mirror %s; to lose that, overwrite its first %d bytes with zeroes",
			queue.ErrInvalid, d.Path(), s.id, slots*stateSize)
	case ours && a.state.parts[i] != partOut:
		return 0, 0, false, fmt.Errorf("%w: %s is a copy of leg %d, which is %v", queue.ErrInvalid, d.Path(), i, a.state.parts[i])
	case ours && s.apart(i, a.state.left[i]) && !format:
		return 0, 0, false, fmt.Errorf("%w: %w: %s was used without the others; --format makes it a leg again, which loses what only it has",
			queue.ErrInvalid, ErrSplit, d.Path())
	case ours:
		return i, slot, format || s.events > a.state.left[i] || s.events+slack+1 < a.state.left[i], nil
	case !format:
		return 0, 0, false, fmt.Errorf("%w: %s: %w; --format makes it a leg, which loses what it holds", queue.ErrInvalid, d.Path(), err)
	}
	for i := range a.n {
		if a.state.parts[i] == partOut {
			return i, 0, true, nil
		}
	}
	return 0, 0, false, fmt.Errorf("%w: no leg of the mirror is out", queue.ErrInvalid)
}

// LegStatus is how a leg is.
type LegStatus struct {
	Leg    int    `json:"leg"`
	File   string `json:"file,omitempty"`   // not known of a leg that was out from the start
	State  string `json:"state"`            // "in-sync", "resyncing" or "out"
	Behind int64  `json:"behind,omitempty"` // bytes that it may lack
	Errors int64  `json:"errors,omitempty"` // requests to it that have failed, since the mirror is served
	Error  string `json:"error,omitempty"`  // why it is out
}

// Status returns how the legs are.
func (m *Mirror) Status() []LegStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]LegStatus, m.n)
	for i := range list {
		s := LegStatus{Leg: i, State: m.state.parts[i].String(), Errors: m.errors[i]}
		if l := m.legs[i]; l != nil {
			s.File = l.Path()
			if l.err != nil && m.state.parts[i] == partOut {
				s.Error = l.err.Error()
			}
		}
		switch m.state.parts[i] {
		case partResyncing:
			s.Behind = min(int64(m.stale.count)*m.region, m.size)
		case partOut:
			s.Behind = min(int64(m.intent.count)*m.region, m.size)
		default:
		}
		list[i] = s
	}
	return list
}
