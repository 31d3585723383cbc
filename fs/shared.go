package fs

import (
	"io"
	"sync"
)

// shared is something opened once for all the handles of a node, and closed with the last of them.
type shared[T io.Closer] struct {
	mu    sync.Mutex
	users int // guarded by mu
	v     T   // guarded by mu; valid while users > 0
}

// acquire gives the open thing, opening it for the first user. Each success is paid back by one release.
func (s *shared[T]) acquire(open func() (T, error)) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		v, err := open()
		if err != nil {
			var none T
			return none, err
		}
		s.v = v
	}
	s.users++
	return s.v, nil
}

// release closes after the last user.
func (s *shared[T]) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return nil
	}
	v := s.v
	var none T
	s.v = none
	return v.Close()
}
