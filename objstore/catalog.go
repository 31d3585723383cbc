package objstore

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Refs have two locks. refsMu, the log's lock, is held from the decision about records until they have taken effect, and
// over the append and its syncs in between; mu, the state's lock, is held for the decision, and again when the records
// take effect, and never over I/O. So refs change under both, and may be read under either. Nothing that reads or writes
// a volume takes refsMu: one volume's snapshot is not in the way of another's requests.

// updateRefs makes records durable and lets them take effect, all or none. decide says which, with s.mu held; what it has
// seen in refs stays so until they take effect. No records: there is nothing to do. took, which may be nil, runs with s.mu
// held when they have taken effect. Neither may block. The caller holds neither lock of refs.
func (s *Store) updateRefs(decide func() ([]refRecord, error), took func()) error {
	s.refsMu.Lock()
	defer s.refsMu.Unlock()
	s.mu.Lock()
	recs, err := decide()
	s.mu.Unlock()
	if err != nil || len(recs) == 0 {
		return err
	}
	if err := s.logRefs(recs); err != nil {
		return err
	}
	if err := s.applyRefs(recs, took); err != nil {
		return s.fail(err)
	}
	if s.refsLog.end > s.refsLook {
		if err := s.tidyRefs(); err != nil { // nobody knows which file counts; the records are in both
			_ = s.fail(fmt.Errorf("compact %s: %w", refsFile, err))
		}
	}
	return nil
}

// appendRefs is updateRefs for records that depend on nothing.
func (s *Store) appendRefs(recs ...refRecord) error {
	return s.updateRefs(func() ([]refRecord, error) { return recs, nil }, nil)
}

// logRefs appends records to the log, durably. Under refsMu.
func (s *Store) logRefs(recs []refRecord) error {
	if err := s.writeError(); err != nil {
		return err
	}
	b, err := json.Marshal(recs)
	if err != nil {
		return err
	}
	if op := recs[0].Op; s.refsLog.end+int64(len(b)) > refsFull && (op == opVolume || op == opSnap) {
		return fmt.Errorf("%w for names: %s has %d bytes, and takes none above %d; delete snapshots or volumes",
			ErrNoSpace, refsFile, s.refsLog.end, refsFull)
	}
	if err := s.refsLog.append(b); err != nil {
		if errors.Is(err, ErrNoSpace) || passing(err) {
			return s.spaceError(err)
		}
		return s.fail(fmt.Errorf("append to %s: %w", refsFile, err))
	}
	return nil
}

// applyRefs lets records that are durable take effect. Under refsMu.
func (s *Store) applyRefs(recs []refRecord, took func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range recs {
		if err := s.refs.apply(&recs[i]); err != nil {
			return fmt.Errorf("apply %s record: %w", recs[i].Op, err)
		}
	}
	if took != nil {
		took()
	}
	return nil
}
