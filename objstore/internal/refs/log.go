package refs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// The files of refs, relative to the store.
const (
	Dir     = "refs"
	LogFile = Dir + "/log"
	LogCopy = Dir + "/log.copy"

	draftFile = LogFile + ".new" // a compacted log that is not in use yet
)

// LogFiles are the copies of the log.
var LogFiles = []string{LogFile, LogCopy}

// LogID is the ID of a store's log.
func LogID(store uuid.UUID) record.ID { return record.ID{Kind: record.Refs, Store: store} }

// ahead is the space in bytes that stays allocated beyond the log's end, so that names can be
// deleted on a full disk.
const ahead = 64 << 10

// Log is the open log. It has no lock: its owner serialises the methods that change it, and does
// not hold the lock of the State while it calls them.
type Log struct {
	// CompactAt is the length in bytes above which Compact checks whether the log can be shorter.
	// Tidy sets it.
	CompactAt int64
	// Full is the length in bytes above which the log accepts no new names: about four million
	// snapshots. Settling and deleting still work.
	Full int64

	fs     vfs.FS
	store  uuid.UUID
	logger *slog.Logger
	log    *record.Log
}

// Create creates both files of a store's log, with its first records. Their names are durable after
// SyncDir of Dir.
func Create(fs vfs.FS, store uuid.UUID, recs ...Record) error {
	l, err := record.Create(fs, LogFile, LogID(store))
	if err != nil {
		return err
	}
	if len(recs) > 0 {
		var b []byte
		if b, err = json.Marshal(recs); err == nil {
			err = l.Append(b)
		}
	}
	if err == nil {
		err = l.AddCopy(fs, LogCopy)
	}
	return errors.Join(err, l.Close())
}

// Open reads the log of a store with this chunk size in bytes, and returns the state that the log
// leads to. Damage returns what was repaired. The caller calls Tidy next. If ctx ends,
// Open returns its error.
func Open(ctx context.Context, fs vfs.FS, store uuid.UUID, chunkSize int, logger *slog.Logger) (*Log, *State, error) {
	l := &Log{fs: fs, store: store, logger: logger, Full: 1 << 30}
	if err := l.removeDraft(); err != nil {
		return nil, nil, err
	}
	var err error
	s := NewState(chunkSize)
	if l.log, err = record.Open(ctx, fs, LogFiles, LogID(store), false, s.ApplyFrame); err != nil {
		return nil, nil, err
	}
	return l, s, nil
}

// Append makes records durable, which take effect together. After disk.ErrNoSpace and transient
// errors the log is unchanged, unless it is InDoubt; after any other error its content is unknown.
func (l *Log) Append(recs []Record) error {
	b, err := json.Marshal(recs)
	if err != nil {
		return err
	}
	if op := recs[0].Op; l.log.Size()+int64(len(b)) > l.Full && (op == OpVolume || op == OpSnapshot) {
		return fmt.Errorf("%w for names: %s has %d bytes, and accepts no names above %d; delete snapshots or volumes",
			disk.ErrNoSpace, LogFile, l.log.Size(), l.Full)
	}
	return l.log.Append(b)
}

// InDoubt reports whether a record whose Append returned an error may still be in the log: after a
// crash it would take effect.
func (l *Log) InDoubt() bool { return l.log.InDoubt() }

// TakeBack removes such a record; Append does so first. Its errors are like those of Append.
func (l *Log) TakeBack() error { return l.log.TakeBack() }

// Size is the length of the log in bytes.
func (l *Log) Size() int64 { return l.log.Size() }

// Damage returns the damage that Open found and repaired.
func (l *Log) Damage() []*disk.CorruptError { return l.log.Damage() }

// Copies returns the number of files with the same bytes: two, unless the disk had no space for the
// second.
func (l *Log) Copies() int { return l.log.Copies() }

// CopyName is the path of copy i, from 0.
func (l *Log) CopyName(i int) string { return l.log.CopyName(i) }

// VerifyCopy reads copy i alone; its error is a disk.CorruptError, or that of ctx.
func (l *Log) VerifyCopy(ctx context.Context, i int) error { return l.log.VerifyCopy(ctx, i) }

// Close takes back what is in doubt, and closes the files.
func (l *Log) Close() error { return errors.Join(l.log.TakeBack(), l.log.Close()) }
