package objstore

import (
	"cmp"

	"varve/objstore/internal/disk"
)

// Stat returns the store in figures. What the space is for is as of the last counting, and without
// History; CountedStat counts first.
func (s *Store) Stat() (Stat, error) { return s.stat(s.accounting.live.Load()) }

// stat is Stat, with what was counted; nil: nothing was.
func (s *Store) stat(live *liveBytes) (Stat, error) {
	st := Stat{
		UUID: s.sb.known(), Path: s.dir, ChunkSize: s.sb.ChunkSize,
		Stored: s.stored.chunks.Load(), OpenTime: s.took.Seconds(),
		PerVolume: s.Volumes(), Segments: len(s.segments.All()),
	}
	if !s.opts.LookOnly {
		st.Unindexed = len(s.indexer.unindexed())
	}
	st.Scrub, st.Collect = s.upkeep.scrubInfo(), s.collectInfo()
	st.Reindex, _ = s.indexer.rebuild.state()
	st.Volumes = len(st.PerVolume)
	for _, v := range st.PerVolume {
		st.Logical += v.Logical
		st.Tail += v.Tail
		st.Snapshots += v.Snapshots
	}
	if st.Stored > 0 {
		st.DedupRatio = float64(st.Logical) / float64(st.Stored)
	}
	if p := s.failed.Load(); p != nil {
		if st.ReadOnly = (*p).Error(); s.opts.LookOnly {
			st.ReadOnly = s.whyReadOnly()
		}
	}
	// A disk that does not say how much is on it must not keep the rest from being told.
	err := s.space.stat(&st)
	s.usage.forget()
	p, uerr := s.usage.parts()
	if uerr == nil {
		st.Uses, uerr = s.uses(p, live)
	}
	if err = cmp.Or(err, uerr); err != nil && !disk.Unreadable(err) {
		return st, err
	} else if err != nil {
		st.DiskError = err.Error()
	}
	st.Metadata = s.stored.nodes.Load() + p.other()
	st.Used = p.segments + p.other()
	return st, nil
}

// whyReadOnly says why nothing could be written to a store that is only looked at; "": it could.
func (s *Store) whyReadOnly() string {
	switch on, err := s.files.OnReadOnly(); {
	case err != nil:
		return err.Error()
	case on:
		return "its file system is read-only"
	}
	return ""
}
