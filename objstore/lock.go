package objstore

import (
	"errors"
	"fmt"
	"io"
	"os"

	"varve/objstore/vfs"
)

// Lock is the right to open a store. It outlives openings that borrow it (Options.Lock), and its file may be handed
// to another process, so that a store goes from one process to the next with no moment in which a third could open it.
type Lock struct{ file *os.File }

// TakeLock locks the store in dir. ErrStoreLocked if another has it, ErrNotStore if there is none.
func TakeLock(dir string) (*Lock, error) {
	err := isStore(dir)
	if err == nil {
		var c io.Closer
		if c, err = lock(vfs.OS(dir)); err == nil {
			return &Lock{c.(*os.File)}, nil // as vfs.OS promises
		}
	}
	return nil, fmt.Errorf("open store %s: %w", dir, err)
}

func lock(fs vfs.FS) (io.Closer, error) {
	c, err := fs.Lock(lockFile)
	if errors.Is(err, vfs.ErrLocked) {
		return nil, ErrStoreLocked
	}
	return c, err
}

// InheritLock is the lock whose File another process handed over.
func InheritLock(f *os.File) *Lock { return &Lock{f} }

// File stays the Lock's. The lock is given up when the last copy of it is closed, in whichever process.
func (l *Lock) File() *os.File { return l.file }

// Close gives this process's share of the lock up. No opening may borrow it any more.
func (l *Lock) Close() error { return l.file.Close() }

// Check says whether this version of the program can read the store in dir, without opening or changing it.
func Check(dir string) error {
	err := isStore(dir)
	for _, name := range []string{superblockFile, superblockCopy} {
		if err != nil && errors.Is(err, ErrNotStore) {
			break
		}
		if _, err = readSuperblockFile(vfs.OS(dir), name); err == nil || errors.Is(err, ErrVersion) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("check store %s: %w", dir, err)
	}
	return nil
}
