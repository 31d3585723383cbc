package fs

import (
	"io"
	"sync"
)

// refCounted opens a value once for all the handles of a node, and closes it with the last of them.
type refCounted[T io.Closer] struct {
	mu    sync.Mutex
	users int // guarded by mu
	v     T   // guarded by mu; valid while users > 0
}

// acquire returns the value, which it opens for the first user. Each successful acquire needs one
// release.
func (s *refCounted[T]) acquire(open func() (T, error)) (T, error) {
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

// release closes the value when its last user is gone.
func (s *refCounted[T]) release() error {
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
