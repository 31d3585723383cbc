package objstore

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// A file is the store's by its name, in the one form that the store itself writes. Any other spelling of the same number
// is a stray: it is named in the log and by a check, and neither opened nor deleted. Somebody has put it there.

// parseJournalName gives the volume and the generation of a file in journalDir, and whether it is a draft.
func parseJournalName(name string) (volume uuid.UUID, gen uint64, draft, ok bool) {
	base, draft := strings.CutSuffix(name, journalDraft)
	volume, err := uuid.Parse(base[:min(len(base), 36)])
	if err != nil {
		return uuid.UUID{}, 0, false, false
	}
	if _, err := fmt.Sscanf(base[36:], "-%016x", &gen); err != nil || base != path.Base(journalName(volume, gen)) {
		return uuid.UUID{}, 0, false, false
	}
	return volume, gen, draft, true
}

// stray notes a file that is none of the store's.
func (s *Store) stray(name string) {
	s.log.Warn("a file that is none of the store's; it is left alone", "file", name)
	s.badMu.Lock()
	defer s.badMu.Unlock()
	if !slices.Contains(s.strays, name) {
		s.strays = append(s.strays, name)
	}
}
