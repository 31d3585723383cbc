package disk

import (
	"errors"
	"log/slog"
	"os"
	"path"

	"varve/objstore/vfs"
)

// CreateFile creates a file with the bytes of data, which are durable when it returns; the name is
// durable after SyncDir of its directory. After an error no file is left, so that it can be created
// when there is room again.
func CreateFile(fs vfs.FS, name string, data []byte) (vfs.File, error) {
	f, err := fs.Create(name)
	if err != nil {
		return nil, SpaceError(err)
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Datasync()
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(name)
		return nil, SpaceError(err)
	}
	return f, nil
}

// ReplaceFile replaces a small file, or creates it, by way of a draft: after a crash it has either
// the old bytes or the new ones. Both the bytes and the name are durable when it returns.
func ReplaceFile(fs vfs.FS, name string, data []byte) error {
	draft := name + ".new"
	if err := fs.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := fs.Create(draft)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Datasync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := fs.Rename(draft, name); err != nil {
		return err
	}
	return fs.SyncDir(path.Dir(name))
}

// RemoveLeftover removes a file that no longer counts, if it is there. One that its disk does not
// let go is harmless: it stays, and is logged.
func RemoveLeftover(fs vfs.FS, logger *slog.Logger, name string) error {
	err := fs.Remove(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if Unreadable(err) {
		logger.Warn("a file that no longer counts can't be removed", "file", name, "error", err)
		return nil
	}
	return err
}
