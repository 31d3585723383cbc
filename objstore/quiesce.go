package objstore

import (
	"context"
	"errors"
)

// startHousework starts the settler, the indexer, the accounting, the collector, and the reclaimers
// of what has settled.
func (s *Store) startHousework() {
	ctx, cancel := context.WithCancel(s.ctx)
	s.endHousework = cancel
	s.reclaimer.start(ctx)
	s.housekeepers.Go(func() { s.settler.run(ctx) })
	s.housekeepers.Go(func() { s.indexer.run(ctx) })
	s.accounting.ask() // Quiesce may have ended it halfway
	s.housekeepers.Go(func() { s.accounting.run(ctx) })
	s.collector.start(ctx)
	s.housekeepers.Go(func() { s.collector.run(ctx) })
}

// Quiesce leaves Close little to do: it stops settling, reclaiming and collecting, and makes
// everything written so far durable. Requests continue, but a write that has to wait for settling
// waits for Resume. The caller ensures that Quiesce, Resume and Close do not run at once, and that
// no call waits for a snapshot meanwhile.
func (s *Store) Quiesce() error {
	s.endHousework()
	s.waitHousework()
	s.saveHistory()
	var errs []error
	for _, v := range s.catalog.all() {
		errs = append(errs, v.Flush())
	}
	return errors.Join(errs...)
}

// Resume begins settling and reclaiming again after Quiesce.
func (s *Store) Resume() { s.startHousework() }

// waitHousework waits for what startHousework has started, after its context has ended.
func (s *Store) waitHousework() {
	s.housekeepers.Wait() // first: the settler hands layers to the reclaimer
	s.reclaimer.stop()
	s.collector.stop()
}
