package index

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
)

// secondDir is where an index is made anew while badger can't be closed that has the broken one. The next Open removes it.
const secondDir = "SECOND"

// Broken reports that the index is left alone, since badger failed or may have read or written nonsense.
func (d *disk) Broken() bool { return d.faulted() || d.broken.Load() }

// Renew makes an empty index to be used in place of a broken one, which stays as it is until its process ends. It can be done
// once: an index that breaks again does so for a reason that the next opening may know.
func (d *disk) Renew() (Index, error) {
	dir := d.path(secondDir)
	if err := removeSecond(d.dir); err != nil {
		return nil, err
	}
	return Open(dir, d.opts)
}

// removeSecond removes an index that was made anew, and nothing that is somebody else's.
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
