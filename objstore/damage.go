package objstore

import (
	"errors"
	"sync/atomic"

	"varve/objstore/internal/lockorder"
)

// damageBook is what a store knows about its damage.
type damageBook struct {
	hold atomic.Bool // a volume is damaged: no segment of an earlier process is given back

	reportMu lockorder.Mutex[lockorder.Memory]
	repairs  []*CorruptError // damage that opening has repaired
	losses   []*CorruptError // damage that opening has found and could not repair
	strays   []string        // foreign files that opening has found among the store's
}

// repaired notes damage that opening has found and repaired.
func (s *Store) repaired(d *CorruptError) {
	s.log.Warn("damage was found and repaired", "error", d)
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	s.repairs = append(s.repairs, d)
}

// lost notes damage that opening has found, and that affects no more than the data that lies there.
func (s *Store) lost(err error) {
	s.log.Error("damage was found; the store opens with what is left", "error", err)
	var c *CorruptError
	if errors.As(err, &c) {
		s.reportMu.Lock()
		defer s.reportMu.Unlock()
		s.losses = append(s.losses, c)
	}
}
