package objstore

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/record"
	"varve/objstore/vfs"
)

// refsDraft is a compacted log that does not count yet.
const refsDraft = refsFile + ".new"

// open reads the log, and compacts it if it has grown long for what it says. It returns the damage that it has mended.
func (c *catalog) open() ([]*CorruptError, error) {
	if err := c.removeDraft(); err != nil {
		return nil, err
	}
	l, err := c.openStreamed()
	if l == nil && err == nil {
		l, err = record.Open(c.fs, refsFiles, refsID(c.store), false, c.refs.applyFrame)
	}
	if err != nil {
		return nil, err
	}
	c.log = l
	c.nextSegment = c.refs.segments
	err = c.completeLog()
	if err == nil { // the log may have been renamed just before a kill
		err = c.fs.SyncDir(filepath.Dir(refsFile))
	}
	if err == nil {
		err = c.tidyLog()
	}
	return l.Damage(), err
}

// openStreamed opens a long log whose files are both good. nil: the log is short, or has to be looked at as a whole.
func (c *catalog) openStreamed() (*record.Log, error) {
	r := newRefs()
	r.emptyRoot = c.refs.emptyRoot
	l, err := record.OpenLong(c.fs, refsFiles, refsID(c.store), streamAbove, r.applyFrame)
	if l != nil {
		c.refs = r
	}
	return l, err
}

// tidyLog compacts the log if that is worth it, and reserves room behind its end.
// REQUIRES: logMu is held, or the store is being opened.
func (c *catalog) tidyLog() error {
	if err := c.compactLog(); err != nil {
		return err
	}
	c.log.KeepAhead(refsAhead)
	c.compactAt = min(2*c.log.Size()+refsLong, c.log.Size()+refsFull/8)
	return nil
}

func (c *catalog) removeDraft() error { return removeLeftover(c.fs, c.logger, refsDraft) }

// removeLeftover removes a file that no longer counts. One that its disk does not let go is in nobody's way.
func removeLeftover(fs vfs.FS, log *slog.Logger, name string) error {
	err := fs.Remove(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if disk.Unreadable(err) {
		log.Warn("a file that no longer counts can't be removed", "file", name, "error", err)
		return nil
	}
	return err
}

// completeLog makes the missing one of the two files that refs are kept in. Without room for it, one has to do.
// REQUIRES: logMu is held, or the store is being opened.
func (c *catalog) completeLog() error {
	l := c.log
	if l.Copies() == 2 {
		return nil
	}
	name := refsCopy
	if l.Name() == refsCopy {
		name = refsFile
	}
	err := l.AddCopy(c.fs, name)
	if err == nil {
		c.logger.Info("refs had one copy only; they have two again", "file", name)
	}
	if errors.Is(err, ErrNoSpace) || disk.Unreadable(err) || disk.Transient(err) {
		c.logger.Warn("refs have one copy only until the store opens again", "file", l.Name(), "error", err)
		return nil
	}
	return err
}

// longFor reports whether the log is long for a state that takes live bytes: as long as there is plenty of room, it may be
// several times that.
func longFor(l *record.Log, live int64) bool {
	return l.Size() >= refsLong+4*live || l.Size() >= refsFull/2 && l.Size() >= refsLong+live+live/4
}

// compactLog rewrites the log if it has grown long for what it says, however long that is. After an error nobody knows
// which file counts.
// REQUIRES: logMu is held, or the store is being opened.
func (c *catalog) compactLog() error {
	files := c.log.Copies()
	err := c.completeLog() // there may be room for it by now
	if err == nil && c.log.Copies() != files {
		err = c.fs.SyncDir(filepath.Dir(refsFile))
	}
	if err != nil {
		return err
	}
	l := c.log
	if l.Copies() != 2 || l.Size() < refsLong {
		return nil
	}
	live := int64(0)
	err = c.refs.frames(func(b []byte) error { live += int64(len(b)); return nil })
	if err != nil || !longFor(l, live) {
		return err
	}
	n, err := c.draftLog()
	if err != nil {
		c.logger.Warn("the refs log stays long", "error", err)
		return nil
	}
	return c.replaceLog(n)
}

// draftLog writes the shortest log of the same state under another name, durably.
// REQUIRES: logMu is held, or the store is being opened.
func (c *catalog) draftLog() (*record.Log, error) {
	if err := c.removeDraft(); err != nil { // an attempt before this one could not take it back
		return nil, err
	}
	n, err := record.Create(c.fs, refsDraft, refsID(c.store))
	if err != nil {
		return nil, err
	}
	if err = c.refs.frames(n.Draft); err == nil {
		err = n.SyncDraft()
	}
	if err != nil {
		return nil, errors.Join(err, n.Close(), c.removeDraft())
	}
	return n, nil
}

// replaceLog puts a draft in the place of the log. The copy goes first: two files of different bytes would be damage.
// REQUIRES: logMu is held, or the store is being opened.
func (c *catalog) replaceLog(n *record.Log) error {
	err := c.fs.Remove(refsCopy)
	if err == nil || errors.Is(err, os.ErrNotExist) { // an attempt before this one, which could not sync, has removed it
		err = c.fs.SyncDir(filepath.Dir(refsFile))
	}
	if disk.Transient(err) { // the log is as it was; its copy may lack a name until the store opens again
		c.logger.Warn("the refs log stays long", "error", err)
		return errors.Join(n.Close(), c.removeDraft())
	}
	if err != nil {
		return errors.Join(err, n.Close())
	}
	n.Renamed(refsFile)
	l := c.log
	c.log = n
	if err := l.Close(); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverCompact)
	if err := c.fs.Rename(refsDraft, refsFile); err != nil {
		return err
	}
	if err := c.fs.SyncDir(filepath.Dir(refsFile)); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverCompacted)
	if err := c.completeLog(); err != nil {
		return err
	}
	return c.fs.SyncDir(filepath.Dir(refsFile))
}
