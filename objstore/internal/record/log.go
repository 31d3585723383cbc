package record

import (
	"errors"
	"fmt"
	"os"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// Log is an open log. It has no lock: the caller of a method that writes must have exclusive
// access.
type Log struct {
	copies []logFile // at least one; all have the same bytes
	id     ID
	seed   seed
	last   int64 // offset of the last frame
	end    int64 // offset of the next frame

	damage []*disk.CorruptError
	uncut  bool  // a frame whose Append returned an error may be beyond the end
	failed error // the error of Append after which the content of the log is unknown

	ahead    int64 // bytes beyond the end to keep allocated; 0: none
	reserved int64 // the offset up to which they are allocated
}

// logFile is one copy of a log.
type logFile struct {
	name string
	file vfs.File
}

// newLog is a log without frames or files.
func newLog(id ID) *Log {
	return &Log{id: id, seed: seed(disk.Checksum(id.header())), last: HeaderSize, end: HeaderSize}
}

// Create creates an empty log of one file. The name is durable after SyncDir of its directory.
func Create(fs vfs.FS, name string, id ID) (*Log, error) {
	f, err := disk.CreateFile(fs, name, id.header())
	if err != nil {
		return nil, err
	}
	l := newLog(id)
	l.copies = []logFile{{name, f}}
	return l, nil
}

// Name is the path of the first copy.
func (l *Log) Name() string { return l.copies[0].name }

// Copies returns the number of files with the same bytes.
func (l *Log) Copies() int { return len(l.copies) }

// CopyName is the path of copy i, from 0.
func (l *Log) CopyName(i int) string { return l.copies[i].name }

// Renamed tells the log that the caller has renamed its only copy, or is about to.
func (l *Log) Renamed(name string) { l.copies[0].name = name }

// Size is the offset in bytes at which the last frame ends.
func (l *Log) Size() int64 { return l.end }

// Damage returns the damage in copies that Open found and repaired.
func (l *Log) Damage() []*disk.CorruptError { return l.damage }

// AddCopy adds a file of the same bytes. Its name is durable after SyncDir of its directory.
func (l *Log) AddCopy(fs vfs.FS, name string) error {
	draft := name + ".new" // under its own name, half a copy would be taken for damage
	for _, n := range []string{name, draft} {
		if err := fs.Remove(n); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f, err := fs.Create(draft)
	if err != nil {
		return disk.SpaceError(err)
	}
	if err = l.copyTo(f); err == nil {
		err = f.Datasync()
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(draft) // so that it can be created when there is space again
		return disk.SpaceError(err)
	}
	if err := fs.Rename(draft, name); err != nil {
		f.Close()
		return disk.SpaceError(err)
	}
	l.copies = append(l.copies, logFile{name, f})
	return nil
}

// copyTo writes the log to another file, with its end mark.
func (l *Log) copyTo(f vfs.File) error {
	b := make([]byte, min(l.end, 1<<20))
	for off := int64(0); off < l.end; off += int64(len(b)) {
		b = b[:min(int64(len(b)), l.end-off)]
		if n, err := l.copies[0].file.ReadAt(b, off); n < len(b) {
			return err
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	_, err := f.WriteAt(l.seed.mark(l.end), l.end)
	return err
}

// Append writes one frame to every copy and makes it durable. After disk.ErrNoSpace and transient
// errors the log is unchanged. After any other error its content is unknown, and each later Append
// returns that error: the sync of a later frame could succeed although the bytes of this one are
// lost.
func (l *Log) Append(payload []byte) error {
	if l.failed != nil {
		return l.failed
	}
	err := l.append(payload)
	if !disk.Transient(err) && !errors.Is(err, disk.ErrNoSpace) && !errors.Is(err, disk.ErrInvalid) {
		l.failed = err
	}
	return err
}

// append is Append for a log that has not failed.
func (l *Log) append(payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("frame of %d bytes: %w: at most %d", len(payload), disk.ErrInvalid, MaxPayload)
	}
	if err := l.TakeBack(); err != nil {
		return err
	}
	b := l.seed.encode(payload, l.end)
	err := disk.Parallel(l.copies, func(f logFile) error {
		if _, err := f.file.WriteAt(b, l.end); err != nil {
			return err
		}
		failpoint.Here(failpoint.LogWritten)
		if err := disk.SyncError(f.file.Datasync()); err != nil {
			return err
		}
		failpoint.Here(failpoint.LogSynced)
		return nil
	})
	if err == nil {
		l.last, l.end = l.end, l.end+int64(len(b))
		l.reserve()
		l.putMark()
		return nil
	}
	l.reserved = 0 // truncating frees it
	full := disk.SpaceError(err)
	if !disk.Transient(err) && !errors.Is(full, disk.ErrNoSpace) {
		return err
	}
	if cerr := l.cut(); disk.Transient(cerr) {
		l.uncut = true // the next Append begins with it
	} else if cerr != nil {
		return fmt.Errorf("%w: %w; then %w", disk.ErrUnsynced, err, cerr)
	}
	return full
}

// InDoubt reports whether a frame whose Append returned an error may still be beyond the end: after
// a crash it would count.
func (l *Log) InDoubt() bool { return l.uncut }

// TakeBack removes such a frame; Append does so first. After a transient error it can be retried;
// after any other error the content of the log is unknown.
func (l *Log) TakeBack() error {
	if !l.uncut {
		return nil
	}
	return l.cut()
}

// cut removes what is beyond the end, durably: a power cut must not bring back a frame whose Append
// returned an error.
func (l *Log) cut() error {
	for _, f := range l.copies {
		if err := f.file.Truncate(l.end); err != nil {
			return err
		}
		if err := disk.SyncError(f.file.Datasync()); err != nil {
			return err
		}
	}
	l.uncut = false
	l.putMark()
	return nil
}

// putMark writes the end mark. It ignores errors, as readers can do without the mark.
func (l *Log) putMark() {
	for _, f := range l.copies {
		_, _ = f.file.WriteAt(l.seed.mark(l.end), l.end)
	}
}

// Draft writes one frame without making it durable, to a log of one file that is not in use yet;
// see SyncDraft.
func (l *Log) Draft(payload []byte) error {
	b := l.seed.encode(payload, l.end)
	if _, err := l.copies[0].file.WriteAt(b, l.end); err != nil {
		return disk.SpaceError(err)
	}
	l.last, l.end = l.end, l.end+int64(len(b))
	return nil
}

// SyncDraft makes the frames of all Drafts durable, and then the end mark: other records may be
// deleted because these exist, so a last frame that rots must not be taken for one that was never
// complete.
func (l *Log) SyncDraft() error {
	f := l.copies[0].file
	if err := f.Datasync(); err != nil {
		return disk.SpaceError(err)
	}
	if _, err := f.WriteAt(l.seed.mark(l.end), l.end); err != nil {
		return disk.SpaceError(err)
	}
	return disk.SpaceError(f.Datasync())
}

// KeepAhead keeps n bytes allocated beyond the end of each copy from now on, so that a frame can be
// written to a full disk. If there is no space for them, the next Append tries again.
func (l *Log) KeepAhead(n int64) {
	l.ahead = n
	l.reserve()
}

func (l *Log) reserve() {
	if l.ahead == 0 || l.reserved-l.end >= l.ahead/2 {
		return
	}
	for _, f := range l.copies {
		if err := f.file.Reserve(l.end, l.ahead); err != nil {
			return
		}
	}
	l.reserved = l.end + l.ahead
}

// Close closes the files. Every frame that Append wrote is durable already.
func (l *Log) Close() error {
	var first error
	for _, f := range l.copies {
		if err := f.file.Close(); first == nil {
			first = err
		}
	}
	return first
}
