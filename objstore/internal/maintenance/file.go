package maintenance

import (
	"errors"
	"os"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// The files, relative to the store.
const (
	File = "maintenance"
	Copy = "maintenance.copy" // as it was when the settings changed last
)

// Read returns the state of a store: of File, or, if that is damaged or missing, of Copy, whose
// settings are the same. It returns the damage that it met. disk.ErrVersion: a newer varve wrote
// the files, and they are not to be replaced.
func Read(fs vfs.FS, store uuid.UUID) (*State, []*disk.CorruptError, error) {
	var damage []*disk.CorruptError
	for _, name := range []string{File, Copy} {
		s, err := readFile(fs, name, store)
		switch {
		case err == nil:
			return s, damage, nil
		case errors.Is(err, os.ErrNotExist):
		case errors.Is(err, disk.ErrVersion), !disk.Damaged(err):
			return &State{}, damage, err
		default:
			damage = append(damage, disk.AsCorrupt(err, name, 0, "maintenance record"))
		}
	}
	return &State{}, damage, nil
}

// Verify reads the files, and returns what is wrong with each.
func Verify(fs vfs.FS, store uuid.UUID) []*disk.CorruptError {
	var damage []*disk.CorruptError
	for _, name := range []string{File, Copy} {
		if _, err := readFile(fs, name, store); disk.Damaged(err) && !errors.Is(err, disk.ErrVersion) {
			damage = append(damage, disk.AsCorrupt(err, name, 0, "maintenance record"))
		}
	}
	return damage
}

func readFile(fs vfs.FS, name string, store uuid.UUID) (*State, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := disk.ReadContent(f)
	if err != nil {
		return nil, err
	}
	s, err := decode(c.Data, store)
	if errors.Is(err, disk.ErrVersion) {
		return nil, err
	}
	if err != nil {
		return nil, &disk.CorruptError{File: name, Object: "maintenance record", Err: c.Cause(err.Error())}
	}
	return s, nil
}

// Write replaces the file of a store, durably, and the copy too if the settings have changed.
func (s *State) Write(fs vfs.FS, store uuid.UUID, settings bool) error {
	b := s.Encode(store)
	if err := disk.ReplaceFile(fs, File, b); err != nil {
		return err
	}
	if !settings {
		return nil
	}
	return disk.ReplaceFile(fs, Copy, b)
}
