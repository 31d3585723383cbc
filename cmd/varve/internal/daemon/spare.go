package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs"
)

// spareName is a file in the store whose room the daemon gives up where others have left it none for its socket and
// its list of devices. The store itself needs no new file to open, but xfs refuses to make any file, even an empty
// one, when its last blocks are gone: a daemon that was stopped could not be reached again.
const (
	spareName = "spare"
	spareSize = 4 << 20
	spareFrom = 64 << 20 // what has to be free for it to be made
)

// keepSpare makes the file where there is room for it.
func keepSpare(store string) error {
	if fi, err := os.Stat(filepath.Join(store, spareName)); err == nil && fi.Size() == spareSize {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(store, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", store, err)
	}
	if int64(st.Bavail)*st.Bsize < spareFrom {
		return nil
	}
	files := vfs.OS(store)
	defer func() { _ = files.Close() }() // a handle only
	f, err := files.OpenFile(spareName, os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), 0, 0, spareSize)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil { // no fallocate there, or no room after all
		err = files.Remove(spareName)
	}
	return errors.Join(err, f.Close())
}

// withSpare does what needs a little room, and gives up the spare for it where there is none.
func withSpare(store string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	if rerr := os.Remove(filepath.Join(store, spareName)); rerr != nil {
		return err
	}
	return do()
}
