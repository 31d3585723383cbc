package objstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"varve/objstore/internal/disk"

	"github.com/google/uuid"
)

// catalog holds what a store knows by name: the volumes, their snapshots, the roots of both, and the log that makes them
// durable (refs). What becomes of the names is decided here and nowhere else; what they stand for is the engine's.
//
// It has two locks, as the manifest of an LSM tree does:
//
//	logMu   serialises decisions. It is held from the decision about records until these have taken effect, and over the
//	        append to the log and its syncs in between.
//	mu      guards the state in memory. It is held for the decision, and again when the records take effect; never over
//	        I/O, and never while waiting for a lock that somebody holds over I/O.
//
// Hence refs change under both locks and may be read under either. What reads or writes a volume never takes logMu, so
// that no request waits for a sync of the log.
type catalog struct {
	logMu     sync.Mutex
	log       *recordLog
	compactAt int64 // length of the log, in bytes, at which to see whether it can be shorter

	mu          sync.Mutex
	refs        *refs // changes under logMu and mu
	volumes     map[uuid.UUID]*volume
	views       map[*View]struct{}
	nextSegment uint64 // ID of the next segment
}

func newCatalog() *catalog {
	return &catalog{refs: newRefs(), nextSegment: 1, volumes: map[uuid.UUID]*volume{}, views: map[*View]struct{}{}}
}

// updateRefs makes records durable and lets them take effect, all or none. decide says which, with s.catalog.mu held; what it has
// seen in refs stays so until they take effect. No records: there is nothing to do. took, which may be nil, runs with s.catalog.mu
// held when they have taken effect. Neither may block. The caller holds neither lock of refs.
func (s *Store) updateRefs(decide func() ([]refRecord, error), took func()) error {
	s.catalog.logMu.Lock()
	defer s.catalog.logMu.Unlock()
	s.catalog.mu.Lock()
	recs, err := decide()
	s.catalog.mu.Unlock()
	if err != nil || len(recs) == 0 {
		return err
	}
	if err := s.logRefs(recs); err != nil {
		return err
	}
	if err := s.applyRefs(recs, took); err != nil {
		return s.fail(err)
	}
	if s.catalog.log.end > s.catalog.compactAt {
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

// logRefs appends records to the log, durably. Under catalog.logMu.
func (s *Store) logRefs(recs []refRecord) error {
	if err := s.writeError(); err != nil {
		return err
	}
	b, err := json.Marshal(recs)
	if err != nil {
		return err
	}
	if op := recs[0].Op; s.catalog.log.end+int64(len(b)) > refsFull && (op == opVolume || op == opSnap) {
		return fmt.Errorf("%w for names: %s has %d bytes, and takes none above %d; delete snapshots or volumes",
			ErrNoSpace, refsFile, s.catalog.log.end, refsFull)
	}
	if err := s.catalog.log.append(b); err != nil {
		if errors.Is(err, ErrNoSpace) || disk.Transient(err) {
			return s.spaceError(err)
		}
		return s.fail(fmt.Errorf("append to %s: %w", refsFile, err))
	}
	return nil
}

// applyRefs lets records that are durable take effect. Under catalog.logMu.
func (s *Store) applyRefs(recs []refRecord, took func()) error {
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	for i := range recs {
		if err := s.catalog.refs.apply(&recs[i]); err != nil {
			return fmt.Errorf("apply %s record: %w", recs[i].Op, err)
		}
	}
	if took != nil {
		took()
	}
	return nil
}
