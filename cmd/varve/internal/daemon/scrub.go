package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

// scrubInterval is how often the daemon asks whether a scheduled check is due.
const scrubInterval = time.Minute

func (d *Daemon) serveMaintenance(ctx context.Context, r *http.Request, m protocol.Maintenance) (protocol.Stat, error) {
	if err := d.store.SetMaintenance(m.Apply); err != nil {
		return protocol.Stat{}, err
	}
	st, err := d.serveStat(ctx, r, server.None{})
	d.log.Info("maintenance set", "scrub_every_seconds", st.Scrub.Every, "scrub_rate", st.Scrub.Rate)
	return st, err
}

// scrubs lets one check run at a time. A scheduled one makes way for one that a client has asked
// for, and for a handover.
type scrubs struct {
	mu      sync.Mutex
	running bool
	held    bool               // no scheduled check begins
	stop    context.CancelFunc // of the scheduled check that runs; nil: none
}

// take begins the check of a client. It waits until a scheduled check has made way, and returns
// false if another client's runs.
func (s *scrubs) take() bool {
	for {
		s.mu.Lock()
		running, stop := s.running, s.stop
		if !running {
			s.running = true
		}
		s.mu.Unlock()
		if !running || stop == nil {
			return !running
		}
		stop()
		time.Sleep(time.Millisecond) // it ends at the next object
	}
}

// begin is take for a scheduled check, which ctx, take or hold ends.
func (s *scrubs) begin(ctx context.Context) (context.Context, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running || s.held {
		return nil, false
	}
	s.running = true
	ctx, s.stop = context.WithCancel(ctx)
	return ctx, true
}

// give ends what take or begin has begun.
func (s *scrubs) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	s.running, s.stop = false, nil
}

// hold ends the scheduled check that runs, and keeps the next from beginning until release.
func (s *scrubs) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
	if s.stop != nil {
		s.stop()
	}
}

func (s *scrubs) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
}

// watchScrub runs scheduled checks until the function that it returns is called, which waits for
// the one that runs. That one goes on when the store opens again.
func (d *Daemon) watchScrub(every time.Duration) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				d.scrub(ctx)
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// scrub runs a scheduled check if one is due.
func (d *Daemon) scrub(ctx context.Context) {
	if !d.store.ScrubDue() {
		return
	}
	ctx, ok := d.scrubs.begin(ctx)
	if !ok {
		return
	}
	defer d.scrubs.give()
	o := d.store.ScrubOptions()
	d.log.Info("a scheduled check begins, or goes on", "rate", o.Rate)
	report, err := d.store.CheckStore(ctx, o)
	switch {
	case err == nil:
		d.logChecked(report)
	case errors.Is(err, context.Canceled):
		d.log.Info("the scheduled check makes way, and goes on later")
	default:
		d.log.Warn("the scheduled check ended early, and is tried again", "error", err)
	}
}
