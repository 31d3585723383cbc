package index

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
)

// secondDir is the directory of an index that replaces a broken one while badger cannot be closed.
// The next Open removes it.
const secondDir = "SECOND"

// Broken reports whether the index is not used any more, because badger failed or may have read or
// written garbage.
func (d *disk) Broken() bool { return d.faulted() || d.broken.Load() }

// Renew returns an empty index that replaces a broken one, whose files remain until the process
// ends. It works once: if the index breaks again, the next opening may find the reason.
func (d *disk) Renew() (Index, error) {
	dir := d.path(secondDir)
	if err := removeSecond(d.dir); err != nil {
		return nil, err
	}
	return Open(dir, d.opts)
}

// removeSecond removes the files of an index that Renew created, and no others.
func removeSecond(dir string) error {
	second := filepath.Join(dir, secondDir)
	if err := removeOwn(second); err != nil {
		return err
	}
	if err := os.Remove(second); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	return nil
}
