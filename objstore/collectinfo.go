package objstore

import (
	"math"
	"time"

	"varve/objstore/internal/maintenance"
)

// NoCollectLimit is a Maintenance.CollectRate without a limit.
const NoCollectLimit = math.MaxInt64

// CollectInfo is what Stat says of collection. Sizes are in bytes.
type CollectInfo struct {
	Rate   int64        `json:"rate"` // bytes per second at most, while there is room; 0: no limit
	Phase  CollectPhase `json:"phase"`
	DryRun bool         `json:"dry_run,omitempty"`
	// Of the collection under way.
	Done  int64 `json:"done,omitempty"`  // of Total: roots walked while marking, segments while sweeping
	Total int64 `json:"total,omitempty"` // 0: not known yet
	Freed int64 `json:"freed,omitempty"` // so far
	// Of the last collection that came to its end, also before the store was opened.
	LastBegun time.Time `json:"last_begun,omitzero"`
	LastEnded time.Time `json:"last_ended,omitzero"`
	LastFreed int64     `json:"last_freed,omitempty"`
	Error     string    `json:"error,omitempty"` // why the newest one, since the store was opened, did not
}

// collectInfo returns what Stat says of collection.
func (s *Store) collectInfo() CollectInfo {
	st := s.collector.stateNow()
	i := CollectInfo{
		Rate: s.collector.throttle.limit(), Phase: st.Phase, DryRun: st.DryRun,
		Done: st.Done, Total: st.Total, Freed: st.Freed, Error: st.Error,
	}
	u := s.upkeep
	u.mu.Lock()
	defer u.mu.Unlock()
	i.LastBegun, i.LastEnded, i.LastFreed = u.state.Collected.Begun, u.state.Collected.Ended, u.state.Collected.Freed
	return i
}

// collected remembers a collection that came to its end.
func (u *upkeep) collected(r *CollectReport) {
	u.mu.Lock()
	u.state.Collected = maintenance.Collection{
		Begun: r.Started.UTC().Truncate(time.Second), Ended: u.now().UTC().Truncate(time.Second), Freed: max(r.Freed, 0),
	}
	u.mu.Unlock()
	u.save()
}

// setCollectRate has the collector keep to the rate of the settings; 0: to that of the options.
func (s *Store) setCollectRate(rate int64) {
	if rate == 0 {
		rate = s.opts.CollectRate
	}
	s.SetCollectRate(rate)
}
