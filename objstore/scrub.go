package objstore

import (
	"errors"
	"fmt"
	"time"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/maintenance"
)

// Maintenance are the settings of what a store does by itself to stay in order. They are kept in
// the store, in a file that an older varve ignores.
type Maintenance struct {
	// ScrubEvery is how often the whole store is to be checked, in whole seconds; 0: never.
	ScrubEvery time.Duration
	// ScrubRate is how many bytes a scheduled check reads per second at most; 0: no limit.
	ScrubRate int64
	// CollectRate is how many bytes a collection reads, writes and frees per second at most, while
	// there is room; 0: that of Options, NoCollectLimit: no limit.
	CollectRate int64
}

// SmallestScrubEvery is the shortest time between two scheduled checks.
const SmallestScrubEvery = time.Minute

// Validate returns an error for a setting that is out of range.
func (m *Maintenance) Validate() error {
	switch {
	case m.ScrubEvery != 0 && m.ScrubEvery < SmallestScrubEvery:
		return fmt.Errorf("a scrub every %v: %w: want at least every %v, or 0 for none", m.ScrubEvery, ErrInvalid, SmallestScrubEvery)
	case m.ScrubRate < 0 || m.CollectRate < 0:
		return fmt.Errorf("rate of %d bytes per second: %w: want at least 1, or 0 for the default", min(m.ScrubRate, m.CollectRate), ErrInvalid)
	}
	return nil
}

// Maintenance returns the settings.
func (s *Store) Maintenance() Maintenance {
	u := s.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	return Maintenance(u.state.Settings)
}

// SetMaintenance changes the settings that change returns, durably.
func (s *Store) SetMaintenance(change func(Maintenance) Maintenance) error {
	if err := s.writeError(); err != nil {
		return err
	}
	u := s.upkeep
	u.mu.Lock()
	before := u.state.Settings
	m := change(Maintenance(before))
	m.ScrubEvery = m.ScrubEvery.Truncate(time.Second)
	err := m.Validate()
	if err == nil {
		u.state.Settings = maintenance.Settings(m)
	}
	u.mu.Unlock()
	if err != nil {
		return err
	}
	if err = u.write(true); err == nil {
		s.setCollectRate(m.CollectRate)
		return nil
	}
	u.mu.Lock()
	u.state.Settings = before
	u.mu.Unlock()
	if errors.Is(err, disk.ErrVersion) {
		return fmt.Errorf("%s: %w: a newer varve wrote it", maintenance.File, err)
	}
	return s.spaceError(fmt.Errorf("write %s: %w", maintenance.File, err))
}

// ScrubDue reports whether a scheduled check is to run now: one was interrupted, or the last check
// of everything is longer ago than the schedule says, by the wall clock, or by the time that the
// store was open since. Thus a clock that was set back does not keep a store from being checked.
func (s *Store) ScrubDue() bool {
	u := s.upkeep
	u.mu.Lock()
	u.countLocked()
	st := &u.state
	every, save := st.Settings.ScrubEvery, false
	due := every > 0 && s.writeError() == nil
	if due {
		save = u.uptime()-u.saved >= upkeepUptime
		since := u.now().Sub(st.Scrubbed.Ended)
		due = st.Pass != nil && st.Pass.Scheduled || st.Scrubbed.Ended.IsZero() || since >= every || st.Uptime >= every
	}
	u.mu.Unlock()
	if save {
		u.save()
	}
	return due
}

// ScrubOptions are those of a scheduled check, which continues with an interrupted one.
func (s *Store) ScrubOptions() CheckOptions {
	u := s.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	return CheckOptions{Scheduled: true, Rate: u.state.Settings.ScrubRate, Resume: true}
}

// ScrubInfo is what Stat says of checks. Durations are in seconds, sizes in bytes.
type ScrubInfo struct {
	Every float64    `json:"every_seconds"` // 0: no schedule
	Rate  int64      `json:"rate"`          // bytes per second of scheduled checks; 0: no limit
	State ScrubState `json:"state"`
	// Of the check that is running or was interrupted.
	Begun     time.Time `json:"begun,omitzero"`
	Scheduled bool      `json:"scheduled,omitempty"`
	Done      int64     `json:"done,omitempty"`  // bytes
	Total     int64     `json:"total,omitempty"` // bytes, about; 0 unless it is running
	// Of the last check of everything that came to its end.
	LastBegun   time.Time `json:"last_begun,omitzero"`
	LastEnded   time.Time `json:"last_ended,omitzero"`
	LastBytes   int64     `json:"last_bytes,omitempty"`
	LastDamaged int       `json:"last_damaged,omitempty"` // damages that were not repaired
	Due         time.Time `json:"due,omitzero"`           // of the next scheduled one; the zero time: none is scheduled, or at once
}

// ScrubState says whether a check runs.
type ScrubState string

// States of a ScrubInfo.
const (
	ScrubIdle        ScrubState = "idle"
	ScrubRunning     ScrubState = "running"
	ScrubInterrupted ScrubState = "interrupted" // a check of everything did not come to its end, and can be resumed
)

// scrubInfo returns what Stat says of checks.
func (u *upkeep) scrubInfo() ScrubInfo {
	u.mu.Lock()
	defer u.mu.Unlock()
	st := &u.state
	i := ScrubInfo{
		Every: st.Settings.ScrubEvery.Seconds(), Rate: st.Settings.ScrubRate, State: ScrubIdle,
		LastBegun: st.Scrubbed.Begun, LastEnded: st.Scrubbed.Ended, LastBytes: st.Scrubbed.Bytes, LastDamaged: st.Scrubbed.Damaged,
	}
	if p := st.Pass; p != nil {
		i.State, i.Begun, i.Scheduled, i.Done = ScrubInterrupted, p.Begun, p.Scheduled, p.Bytes
	}
	if r := u.running.Load(); r != nil {
		i.State, i.Begun, i.Scheduled = ScrubRunning, r.begun, r.scheduled
		if p := r.progress.Load(); p != nil {
			i.Done, i.Total = p.Done, p.Total
		}
	}
	if i.Every > 0 && !i.LastEnded.IsZero() {
		u.countLocked()
		i.Due = i.LastEnded.Add(st.Settings.ScrubEvery)
		if by := u.now().Add(st.Settings.ScrubEvery - st.Uptime); by.Before(i.Due) {
			i.Due = by.UTC().Truncate(time.Second)
		}
	}
	return i
}
