package zone

// Write begins a write of n bytes at off. Done or Abort has to end it.
func (s *Set) Write(off, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, z, err := s.sequential(off)
	start := int64(i) * s.geo.ZoneSize
	if off+n > start+s.geo.ZoneSize {
		return ErrBoundary
	}
	if i < s.geo.Conventional {
		return nil
	}
	if err != nil {
		return err
	}
	at := off - start
	switch {
	case z.busy:
		return ErrBusy
	case z.replay && z.flying == 0 && n == z.last && at+n == z.written: // and its zone may be full
		z.replay = false
		z.flying++
		return nil
	case z.cond == Full:
		return ErrFull
	case at != z.next:
		return ErrPointer
	}
	return s.fly(i, n)
}

// Append begins a write of n bytes to the zone at off, and returns where on the disk it goes. Done
// or Abort has to end it.
func (s *Set) Append(off, n int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, z, err := s.idle(off)
	switch {
	case err != nil:
		return 0, err
	case z.cond == Full || z.next+n > s.geo.ZoneSize:
		return 0, ErrFull
	}
	at := off + z.next
	return at, s.fly(i, n)
}

// fly begins a write at the next place of a zone, which has room for it. The caller holds mu.
func (s *Set) fly(i int, n int64) error {
	if err := s.enter(i, false); err != nil {
		return err
	}
	z := &s.zones[i]
	z.next += n
	z.flying++
	z.replay = false
	return nil
}

// Done ends a write: its bytes can be read. When it returns, the zone's word says so.
func (s *Set) Done(off, n int64) { s.end(off, n, true) }

// Abort ends a write that has failed.
func (s *Set) Abort(off, n int64) { s.end(off, n, false) }

func (s *Set) end(off, n int64, done bool) {
	i := int(off / s.geo.ZoneSize)
	if i < s.geo.Conventional {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	z := &s.zones[i]
	z.flying--
	if end := off + n - int64(i)*s.geo.ZoneSize; done && end > z.written {
		z.written, z.last = end, n
	}
	if z.flying == 0 {
		z.next = z.written
	}
	switch {
	case z.written == s.geo.ZoneSize && z.cond != Full:
		s.move(i, Full)
	case z.written == 0 && z.flying == 0 && z.cond == Closed:
		s.move(i, Empty)
	}
	s.store(i)
}

// Readable says how many of the n bytes from off on, all of one zone, were written, which the first
// ones are. The others read as zeroes.
func (s *Set) Readable(off, n int64) (int64, error) {
	i := int(off / s.geo.ZoneSize)
	if i < s.geo.Conventional {
		return n, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	z := &s.zones[i]
	if z.cond == Offline {
		return 0, ErrOffline
	}
	return min(n, max(0, int64(i)*s.geo.ZoneSize+z.written-off)), nil
}
