package objstore

import "context"

// Reclaiming waits for readers, and readers may wait for settling: a queue's thread that waits for room in the
// tail can't end its reads meanwhile. So the settler hands a settled layer over to a goroutine of its own.

// reclaimLater queues step F of a settling.
func (s *Store) reclaimLater(st *settling) {
	st.fresh, st.leaves, st.buf = nil, nil, nil
	s.reclaimMu.Lock()
	s.reclaims = append(s.reclaims, st)
	s.reclaimMu.Unlock()
	select {
	case s.reclaimKick <- struct{}{}:
	default:
	}
}

// reclaimer is the goroutine that gives room back, in the order of settling.
func (s *Store) reclaimer(ctx context.Context) {
	defer s.housekeepers.Done()
	for {
		s.reclaimMu.Lock()
		var st *settling
		if len(s.reclaims) > 0 {
			st = s.reclaims[0]
		}
		s.reclaimMu.Unlock()
		if st == nil {
			select {
			case <-s.reclaimKick:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := st.reclaim(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			s.log.Error("room of a settled layer is not given back until the store opens again", "volume", st.v.ref.name, "error", err)
		}
		s.reclaimMu.Lock()
		s.reclaims = s.reclaims[1:]
		s.noteReclaim(-1)
		if len(s.reclaims) == 0 && s.reclaimed != nil {
			close(s.reclaimed)
			s.reclaimed = nil
		}
		s.reclaimMu.Unlock()
		s.gain()
	}
}

// waitReclaimed returns when everything that has settled has given its room back.
func (s *Store) waitReclaimed(ctx context.Context) error {
	s.reclaimMu.Lock()
	if len(s.reclaims) == 0 {
		s.reclaimMu.Unlock()
		return nil
	}
	if s.reclaimed == nil {
		s.reclaimed = make(chan struct{})
	}
	done := s.reclaimed
	s.reclaimMu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrClosed
	}
}
