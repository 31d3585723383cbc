package objstore

import (
	"slices"
)

// A file is the store's by its name, in the one form that the store itself writes. Any other
// spelling of the same number is a stray: it is named in the log and by a check, and neither opened
// nor deleted, since the store has not made it.

// stray notes a file that is none of the store's.
func (s *Store) stray(name string) {
	s.log.Warn("a file does not belong to the store; it is left alone", "file", name)
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	if !slices.Contains(s.strays, name) {
		s.strays = append(s.strays, name)
	}
}
