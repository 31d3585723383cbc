package image

import (
	"errors"
	"sync"
)

// group makes one sync serve all who want one.
type group struct {
	mu   sync.Mutex
	next *sharedSync // not begun; nil: nobody waits
	run  sync.Mutex  // of the sync that runs
}

type sharedSync struct {
	done chan struct{}
	err  error
}

// Sync makes all durable that was written before. It may block.
func (m *Image) Sync() error {
	g := &m.group
	g.mu.Lock()
	s := g.next
	if s != nil {
		g.mu.Unlock()
		<-s.done
		return s.err
	}
	s = &sharedSync{done: make(chan struct{})}
	g.next = s
	g.mu.Unlock()

	g.run.Lock()
	defer g.run.Unlock()
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	released, err := m.settle()
	if err == nil && len(released) > 0 {
		m.alloc.mu.Lock()
		err = m.alloc.release(released)
		m.alloc.mu.Unlock()
	}
	s.err = err
	close(s.done)
	return err
}

// Close makes everything durable and gives back what is reserved. No request is in flight. The image
// is not used any more, whatever the error.
func (m *Image) Close() error {
	if m.readOnly {
		return nil
	}
	var err error
	for range 4 { // what is freed now is released three syncs later
		if err == nil {
			err = m.Sync()
		}
	}
	if err == nil {
		err = m.alloc.close()
	}
	return errors.Join(err)
}
