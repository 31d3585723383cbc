package refs

import (
	"encoding/json"
	"errors"
	"os"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/record"
)

const (
	compactFrame = 1024      // most records in a frame of a compacted log
	shortLog     = 256 << 10 // logs up to this length in bytes are not compacted
)

// Compact calls Tidy if the log is longer than CompactAt.
func (l *Log) Compact(s *State) error {
	if l.log.Size() <= l.CompactAt {
		return nil
	}
	return l.compactAndReserve(s)
}

// Tidy completes the opening of a log that leads to s: it adds a missing copy, makes the names
// durable, compacts the log if it is long for its content, and reserves space beyond its end. After
// an error it is unknown which file counts.
func (l *Log) Tidy(s *State) error {
	if err := l.complete(); err != nil {
		return err
	}
	if err := l.fs.SyncDir(Dir); err != nil { // the log may have been renamed just before a kill
		return err
	}
	return l.compactAndReserve(s)
}

func (l *Log) compactAndReserve(s *State) error {
	if err := l.compact(s); err != nil {
		return err
	}
	l.log.KeepAhead(ahead)
	l.CompactAt = min(2*l.log.Size()+shortLog, l.log.Size()+l.Full/8)
	return nil
}

// complete adds the missing one of the two files. If there is no space for it, one must do.
func (l *Log) complete() error {
	if l.log.Copies() == len(LogFiles) {
		return nil
	}
	name := LogCopy
	if l.log.Name() == LogCopy {
		name = LogFile
	}
	err := l.log.AddCopy(l.fs, name)
	if err == nil {
		l.logger.Info("refs had one copy only; they have two again", "file", name)
	}
	if errors.Is(err, disk.ErrNoSpace) || disk.Unreadable(err) || disk.Transient(err) {
		l.logger.Warn("refs have one copy only until the store opens again", "file", l.log.Name(), "error", err)
		return nil
	}
	return err
}

// longFor reports whether the log is long for a state that takes live bytes. While there is plenty
// of space, it may be several times that.
func (l *Log) longFor(live int64) bool {
	size := l.log.Size()
	return size >= shortLog+4*live || size >= l.Full/2 && size >= shortLog+live+live/4
}

// compact rewrites the log if it is long for its content, whatever its length.
func (l *Log) compact(s *State) error {
	copies := l.log.Copies()
	err := l.complete() // there may be space for it by now
	if err == nil && l.log.Copies() != copies {
		err = l.fs.SyncDir(Dir)
	}
	if err != nil {
		return err
	}
	if l.log.Copies() != len(LogFiles) || l.log.Size() < shortLog {
		return nil
	}
	live := int64(0)
	err = s.frames(func(b []byte) error { live += int64(len(b)); return nil })
	if err != nil || !l.longFor(live) {
		return err
	}
	n, err := l.draft(s)
	if err != nil {
		l.logger.Warn("the refs log stays long", "error", err)
		return nil
	}
	return l.replace(n)
}

// frames yields the payloads of the shortest log that leads to the state.
func (s *State) frames(yield func(payload []byte) error) error {
	recs := make([]Record, 0, compactFrame)
	var err error
	flush := func() bool {
		var b []byte
		if b, err = json.Marshal(recs); err == nil {
			err = yield(b)
		}
		recs = recs[:0]
		return err == nil
	}
	s.Records(func(rec Record) bool {
		recs = append(recs, rec)
		return len(recs) < compactFrame || flush()
	})
	if err == nil && len(recs) > 0 {
		flush()
	}
	return err
}

func (l *Log) removeDraft() error { return disk.RemoveLeftover(l.fs, l.logger, draftFile) }

// draft writes the shortest log of the same state under another name, durably.
func (l *Log) draft(s *State) (*record.Log, error) {
	if err := l.removeDraft(); err != nil { // an earlier attempt could not remove it
		return nil, err
	}
	n, err := record.Create(l.fs, draftFile, LogID(l.store))
	if err != nil {
		return nil, err
	}
	if err = s.frames(n.Draft); err == nil {
		err = n.SyncDraft()
	}
	if err != nil {
		return nil, errors.Join(err, n.Close(), l.removeDraft())
	}
	return n, nil
}

// replace replaces the log by a draft. The copy is removed first: two files with different bytes
// would be damage.
func (l *Log) replace(n *record.Log) error {
	err := l.fs.Remove(LogCopy)
	if err == nil || errors.Is(err, os.ErrNotExist) { // an earlier attempt, which could not sync, has removed it
		err = l.fs.SyncDir(Dir)
	}
	if disk.Transient(err) { // the log is unchanged; its copy may lack a name until the store opens again
		l.logger.Warn("the refs log stays long", "error", err)
		return errors.Join(n.Close(), l.removeDraft())
	}
	if err != nil {
		return errors.Join(err, n.Close())
	}
	n.Renamed(LogFile)
	old := l.log
	l.log = n
	if err := old.Close(); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverCompact)
	if err := l.fs.Rename(draftFile, LogFile); err != nil {
		return err
	}
	if err := l.fs.SyncDir(Dir); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverCompacted)
	if err := l.complete(); err != nil {
		return err
	}
	return l.fs.SyncDir(Dir)
}
