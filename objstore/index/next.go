package index

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Next is an index that is filled beside the one in a directory, to replace it when it is complete:
//
//	index        the index that counts
//	index.new    the next one, while it is filled; a killed process leaves it, and its successor goes on with it
//	index.old    the one that was replaced, until it is closed
//
// Install renames index to index.old and index.new to index. badger has its files open meanwhile,
// and makes others by path: that path leads through the open directory (disk.handle), and so to
// wherever the directory was renamed to.
type Next struct {
	Index
	dir string // of the index that is to be replaced
}

func nextDir(dir string) string { return dir + ".new" }

func oldDir(dir string) string { return dir + ".old" }

// OpenNext opens the next index of a directory, or creates it. ErrUnusable: the directory of the
// index is a link, which a rename would replace.
func OpenNext(dir string, o Options) (*Next, error) {
	if fi, err := os.Lstat(dir); err == nil && !fi.IsDir() {
		return nil, fmt.Errorf("%w: %s is no directory, but %v", ErrUnusable, dir, fi.Mode().Type())
	}
	ix, err := Open(nextDir(dir), o)
	if err != nil {
		return nil, err
	}
	return &Next{ix, dir}, nil
}

// HasNext reports whether a directory has a next index, which was not completed.
func HasNext(dir string) bool {
	fi, err := os.Lstat(nextDir(dir))
	return err == nil && fi.IsDir()
}

// Install has the next index count from now on. The caller closes the one that it
// replaces, and then calls RemoveOld. After an error the one before counts still.
func (n *Next) Install() error {
	if err := n.Sync(); err != nil {
		return err
	}
	if err := RemoveOld(n.dir); err != nil {
		return fmt.Errorf("install index: %w", err)
	}
	if err := os.Rename(n.dir, oldDir(n.dir)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return fmt.Errorf("install index: %w", err)
	}
	if err := os.Rename(nextDir(n.dir), n.dir); err != nil {
		return errors.Join(fmt.Errorf("install index: %w", err), os.Rename(oldDir(n.dir), n.dir))
	}
	_ = syncPath(filepath.Dir(n.dir)) // after a power cut one or the other is found, and both will do
	return nil
}

// Discard closes a next index that is not to be installed, and removes its files.
func (n *Next) Discard() error {
	return errors.Join(n.Close(), removeAll(nextDir(n.dir)))
}

// RemoveOld removes the files of an index that was replaced and is closed.
func RemoveOld(dir string) error { return removeAll(oldDir(dir)) }

// removeAll removes the files of an index, and its directory unless that has others.
func removeAll(dir string) error {
	if err := errors.Join(removeSecond(dir), removeOwn(dir)); err != nil {
		return err
	}
	err := os.Remove(dir)
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// finishInstall completes an Install that a crash has interrupted.
func finishInstall(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, iofs.ErrNotExist) {
		if _, err := os.Lstat(oldDir(dir)); err == nil && HasNext(dir) {
			if err := os.Rename(nextDir(dir), dir); err != nil {
				return err
			}
		}
	}
	return RemoveOld(dir)
}
