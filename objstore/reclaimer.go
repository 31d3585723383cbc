package objstore

import "context"

// Reclaiming waits for readers, and readers may wait for settling: a queue's thread that waits for room in the tail can't
// end its reads meanwhile. So the settler hands a settled layer over to a goroutine, one for each volume that has some.
// What a layer gives back is read by plans of its own volume alone: a plan that is held on one is not in the way of what
// the others give back.

// reclaimLater queues step F of a settling. The settler calls it, whose context ends the goroutine too.
func (s *Store) reclaimLater(st *settling) {
	st.fresh, st.own, st.leaves, st.buf, st.copyBuf, st.hits = nil, nil, nil, nil, nil, nil
	s.reclaimMu.Lock()
	defer s.reclaimMu.Unlock()
	s.reclaims[st.v] = append(s.reclaims[st.v], st)
	if len(s.reclaims[st.v]) == 1 {
		s.startReclaimer(st.ctx, st.v)
	}
}

// startReclaimer starts the goroutine of a volume that has layers to give back. Housework must be going on.
func (s *Store) startReclaimer(ctx context.Context, v *volume) {
	s.housekeepers.Add(1)
	go s.reclaimer(ctx, v)
}

// resumeReclaiming goes on where Quiet has ended it.
func (s *Store) resumeReclaiming(ctx context.Context) {
	s.reclaimMu.Lock()
	defer s.reclaimMu.Unlock()
	for v := range s.reclaims {
		s.startReclaimer(ctx, v)
	}
}

// reclaimer gives the room of a volume's settled layers back, in their order, until there are none.
func (s *Store) reclaimer(ctx context.Context, v *volume) {
	defer s.housekeepers.Done()
	for st := s.firstReclaim(v); st != nil; st = s.nextReclaim(v) {
		err := st.reclaim(ctx)
		if err != nil && ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Error("room of a settled layer is not given back until the store opens again", "volume", v.ref.name, "error", err)
		}
	}
}

func (s *Store) firstReclaim(v *volume) *settling {
	s.reclaimMu.Lock()
	defer s.reclaimMu.Unlock()
	return s.reclaims[v][0]
}

// nextReclaim takes the first one off the queue, and gives the next; nil: there is none, and the goroutine ends.
func (s *Store) nextReclaim(v *volume) *settling {
	defer s.gain()
	s.reclaimMu.Lock()
	defer s.reclaimMu.Unlock()
	s.noteReclaim(-1)
	rest := s.reclaims[v][1:]
	if len(rest) > 0 {
		s.reclaims[v] = rest
		return rest[0]
	}
	delete(s.reclaims, v)
	if s.reclaimed != nil {
		close(s.reclaimed)
		s.reclaimed = nil
	}
	return nil
}

// waitReclaimed returns when everything of the volume that has settled has given its room back; nil: of all volumes.
func (s *Store) waitReclaimed(ctx context.Context, v *volume) error {
	for {
		done := s.reclaimsLeft(v)
		if done == nil {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return ErrClosed
		}
	}
}

// reclaimsLeft gives a channel that is closed when a volume has given all back; nil: there is nothing to wait for.
func (s *Store) reclaimsLeft(v *volume) <-chan struct{} {
	s.reclaimMu.Lock()
	defer s.reclaimMu.Unlock()
	if len(s.reclaims) == 0 || v != nil && len(s.reclaims[v]) == 0 {
		return nil
	}
	if s.reclaimed == nil {
		s.reclaimed = make(chan struct{})
	}
	return s.reclaimed
}
