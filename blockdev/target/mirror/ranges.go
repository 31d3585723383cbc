package mirror

// ranges are the parts of the disk that something has for itself: a write, which would otherwise
// reach two legs in another order than one that overlaps it, or a copy from leg to leg. Who comes
// later waits. Guarded by array.mu.
type ranges struct {
	list    []*span // in the order in which they came
	waiting int
}

// span is a part of the disk, in bytes, and who has or wants it.
type span struct {
	off, end int64
	in       bool // in the list
	has      bool // its own
	op       *op  // who is told; or
	free     chan struct{}
}

// enter wants a part, and reports whether it is had at once.
func (r *ranges) enter(s *span) bool {
	s.in, s.has = true, !overlaps(r.list, s)
	r.list = append(r.list, s)
	if !s.has {
		r.waiting++
	}
	return s.has
}

// leave gives a part up, had or not, and calls granted for each that is had now.
func (r *ranges) leave(s *span, granted func(*span)) {
	if !s.in {
		return
	}
	for i, one := range r.list {
		if one == s {
			copy(r.list[i:], r.list[i+1:])
			r.list = r.list[:len(r.list)-1]
			break
		}
	}
	if !s.has {
		r.waiting--
	}
	s.in, s.has = false, false
	if r.waiting == 0 {
		return
	}
	for i, one := range r.list {
		if !one.has && !overlaps(r.list[:i], one) {
			one.has = true
			r.waiting--
			granted(one)
		}
	}
}

// covers reports whether somebody has, or wants, some of a part.
func (r *ranges) covers(off, end int64) bool {
	return overlaps(r.list, &span{off: off, end: end})
}

func overlaps(list []*span, s *span) bool {
	for _, o := range list {
		if o.off < s.end && s.off < o.end {
			return true
		}
	}
	return false
}
