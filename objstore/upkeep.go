package objstore

import (
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/maintenance"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

const (
	// upkeepSave is how often a check saves how far it is. A kill costs no more than that, and the
	// segment that was being read.
	upkeepSave = 10 * time.Second
	// upkeepUptime is how often the uptime is saved while there is a schedule.
	upkeepUptime = time.Hour
	// upkeepSpread is how far apart in seconds the times of a run of segments may lie. It bounds
	// the number of runs; the earliest of the times counts for all.
	upkeepSpread = 3600
)

// upkeep is what an open store remembers of its own maintenance, in the file of package
// internal/maintenance: settings, which segments were verified when, and how far a check has come.
//
// Verification is remembered by segment and by round, the number of a check. An unfinished check
// continues with the segments that its round has not verified, so that its order, kills and the
// wall clock do not matter. Times are kept besides, for CheckOptions.Since alone. What is lost is
// verified again: an error of the file is logged, and fails nothing but a change of the settings.
type upkeep struct {
	fs       vfs.FS
	store    uuid.UUID
	segments *segment.Table
	now      func() time.Time
	uptime   func() time.Duration
	log      *slog.Logger
	every    time.Duration // how often a check saves how far it is

	writeMu lockorder.IOMutex[lockorder.Maintenance] // that the file is written in one order

	mu       lockorder.Mutex[lockorder.Memory]
	foreign  bool // a newer varve wrote the file, which stays as it is
	state    maintenance.State
	verified map[uint32]verification // sealed segments, by ID
	counted  time.Duration           // uptime that state.Uptime includes
	saved    time.Duration           // uptime at the last save
	failing  bool                    // the last save has failed

	running atomic.Pointer[checkRun] // the check under way; nil: none
}

// verification says when a segment was verified last.
type verification struct {
	round   uint32
	damaged bool  // and that damage was found in it
	at      int64 // seconds of Unix time
}

// open reads the file. It returns the damage that the copy has repaired, and the damage that lost
// settings and times.
// REQUIRES: the segments are open, and u is not shared yet.
func (u *upkeep) open() (repaired, lost []*CorruptError) {
	u.verified = map[uint32]verification{}
	u.counted = u.uptime()
	st, damage, err := maintenance.Read(u.fs, u.store)
	if err != nil {
		u.foreign = true
		u.log.Warn("the record of the store's maintenance cannot be read; it is neither used nor changed", "file", maintenance.File, "error", err)
		return nil, nil
	}
	u.state = *st
	u.spread(st.Runs)
	u.state.Runs = nil
	if len(damage) == 0 {
		return nil, nil
	}
	if err := u.write(true); err != nil {
		u.log.Warn("the record of the store's maintenance is damaged, and can't be repaired now", "error", err)
		return nil, nil
	}
	if len(damage) == 2 || st.Round == 0 && st.Settings == (maintenance.Settings{}) {
		return nil, damage
	}
	return damage, nil
}

// spread enters the segments of runs.
func (u *upkeep) spread(runs []maintenance.Run) {
	for _, g := range u.segments.All() {
		for len(runs) > 0 && runs[0].Last < g.ID {
			runs = runs[1:]
		}
		if len(runs) == 0 {
			return
		}
		if r := &runs[0]; g.ID >= r.First && g.Sealed() {
			u.verified[g.ID] = verification{r.Round, r.Damaged, r.At.Unix()}
		}
	}
}

// snapshotLocked returns the state with its runs.
// REQUIRES: u.mu is held.
func (u *upkeep) snapshotLocked(all []*segment.File) maintenance.State {
	u.countLocked()
	st := u.state
	if p := st.Pass; p != nil {
		pass := *p
		st.Pass = &pass
	}
	known := make(map[uint32]verification, len(u.verified)) // without segments that are no more
	var last *maintenance.Run                               // the run that the segment before belongs to
	for _, g := range all {
		v, ok := u.verified[g.ID]
		if !ok {
			last = nil
			continue
		}
		known[g.ID] = v
		at := time.Unix(v.at, 0).UTC()
		if last != nil && last.Round == v.round && last.Damaged == v.damaged && math.Abs(at.Sub(last.At).Seconds()) < upkeepSpread {
			last.Last = g.ID
			if at.Before(last.At) {
				last.At = at
			}
			continue
		}
		st.Runs = append(st.Runs, maintenance.Run{First: g.ID, Last: g.ID, Round: v.round, Damaged: v.damaged, At: at})
		last = &st.Runs[len(st.Runs)-1]
	}
	u.verified = known
	return st
}

// countLocked adds the time since the last call to the uptime.
// REQUIRES: u.mu is held.
func (u *upkeep) countLocked() {
	d := (u.uptime() - u.counted).Truncate(time.Second)
	u.counted += d
	u.state.Uptime += d
}

// write makes the state durable.
func (u *upkeep) write(settings bool) error {
	u.writeMu.Lock()
	defer u.writeMu.Unlock()
	all := u.segments.All()
	u.mu.Lock()
	if u.foreign {
		u.mu.Unlock()
		return disk.ErrVersion
	}
	st := u.snapshotLocked(all)
	u.saved = u.uptime()
	u.mu.Unlock()
	return st.Write(u.fs, u.store, settings)
}

// save is write for what is no loss. The first of several failures is logged.
func (u *upkeep) save() {
	err := u.write(false)
	u.mu.Lock()
	first := err != nil && !u.failing && !u.foreign
	u.failing = err != nil
	u.mu.Unlock()
	if first {
		u.log.Warn("the record of the store's maintenance was not saved", "file", maintenance.File, "error", err)
	}
}

// begin begins a check, or continues with an unfinished one, and returns its round. A check of
// everything is remembered until it has come to its end.
func (u *upkeep) begin(o *CheckOptions) (round uint32, resumed *maintenance.Pass) {
	u.mu.Lock()
	if p := u.state.Pass; o.Resume && p != nil {
		pass := *p
		round = u.state.Round
		u.mu.Unlock()
		return round, &pass
	}
	u.state.Round++
	round = u.state.Round
	if o.whole() {
		u.state.Pass = &maintenance.Pass{Begun: u.now().UTC().Truncate(time.Second), Scheduled: o.Scheduled}
	} else if u.state.Pass != nil {
		u.rebaseLocked(round)
	}
	u.mu.Unlock()
	return round, nil
}

// rebaseLocked keeps the unfinished check of everything, whose segments are those of the newest
// round, beside a check of a part, which gets a round of its own: what the unfinished one has
// verified counts as the new round's, and what the part verifies is then nothing that the
// unfinished one has to read again.
// REQUIRES: u.mu is held.
func (u *upkeep) rebaseLocked(round uint32) {
	for id, v := range u.verified {
		if v.round == round-1 {
			v.round = round
			u.verified[id] = v
		}
	}
}

// note remembers that a segment was verified.
func (u *upkeep) note(id, round uint32, damaged bool, bytes int64) {
	u.mu.Lock()
	u.verified[id] = verification{round, damaged, u.now().Unix()}
	if p := u.state.Pass; p != nil && round == u.state.Round {
		p.Bytes += bytes
	}
	due := u.uptime()-u.saved >= u.every
	u.mu.Unlock()
	if due {
		u.save()
	}
}

// end remembers the result of a check of everything, which from then on is the last one and runs no
// more.
func (u *upkeep) end(r *CheckReport) {
	u.mu.Lock()
	u.running.Store(nil)
	if p := u.state.Pass; p != nil {
		u.counted = u.uptime() // with the fraction of a second that countLocked leaves
		u.state.Scrubbed = maintenance.Scrub{
			Begun: p.Begun, Ended: u.now().UTC().Truncate(time.Second), Bytes: r.Bytes, Damaged: r.Damaged(),
		}
		if r.Resumed != nil {
			u.state.Scrubbed.Bytes += r.Resumed.Bytes
		}
		u.state.Pass, u.state.Uptime = nil, 0
	}
	u.mu.Unlock()
	u.save()
}

// openUpkeep reads what the store remembers of its maintenance.
// REQUIRES: the segments are open.
func (s *Store) openUpkeep() {
	u := &upkeep{
		fs: s.fs, store: s.sb.ID, segments: &s.segments, now: s.opts.Now, uptime: s.uptime, log: s.log,
		every: upkeepSave,
	}
	s.upkeep = u
	repaired, lost := u.open()
	for _, d := range repaired {
		s.repaired(d)
	}
	for _, d := range lost {
		s.lost(d)
	}
}
