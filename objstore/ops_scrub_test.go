package objstore

import "time"

func init() {
	rareOperations = append(rareOperations, operation{"scrub", 3, (*world).opScrub}, operation{"schedule", 1, (*world).opSchedule})
}

// opScrub checks the store or a part of it, or goes on with a check that was interrupted. A store
// that crashes, or whose operations fail, has no damage by that.
func (w *world) opScrub() {
	ctx, cancel := ctxTimeout()
	defer cancel()
	var o CheckOptions
	switch w.pick(4, "scrub") {
	case 0:
		o.Percent = 1 + w.pick(100, "percent")
	case 1:
		o.Since = w.s.opts.Now().Add(-time.Duration(w.pick(3, "hours")) * time.Hour)
	case 2:
		o.Resume = true
	}
	if w.pick(3, "interrupt") == 0 {
		after := w.pick(3, "segments")
		o.Progress = func(CheckProgress) {
			if after--; after < 0 {
				cancel()
			}
		}
	}
	report, err := w.s.CheckStore(ctx, o)
	w.note("check %d%%, since %v, resumed %v: %v", o.Percent, o.Since, o.Resume, err)
	if w.mem.WasCut() || w.hook.Load() != nil || ctx.Err() != nil && err != nil {
		return
	}
	if w.answered(err, "check") && report.Damaged() > 0 {
		w.failf("check finds damage: %+v", report.Damage)
	}
}

// opSchedule changes a setting, which is what it was set to from then on.
func (w *world) opSchedule() {
	before := w.s.Maintenance()
	every := time.Duration(w.pick(5, "hours")) * time.Hour
	err := w.s.SetMaintenance(func(m Maintenance) Maintenance { m.ScrubEvery = every; return m })
	w.note("scrub every %v: %v", every, err)
	if got := w.s.Maintenance().ScrubEvery; !w.mem.WasCut() && (err == nil && got != every || err != nil && got != before.ScrubEvery) {
		w.failf("scrub every %v, was %v, is %v: %v", every, before.ScrubEvery, got, err)
	}
}
