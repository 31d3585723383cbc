package refs

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
)

// MarkName is what the marks of the volume's devices are made of: the name with which the volume
// was created, or its ID if that name was taken as such by a volume that had been renamed. It is
// different for all volumes of a store, and never changes: a device keeps the mark that it was made
// with while its volume is renamed.
func (v *Volume) MarkName() string { return cmp.Or(v.Mark, v.Name) }

// MarkFor returns the Mark of a volume that is about to be created. It is empty, unless the marks
// of another volume's devices are made of the name.
func (s *State) MarkFor(name string, id uuid.UUID) string {
	if s.marks[name] == nil {
		return ""
	}
	return id.String()
}

// CheckRename returns what keeps a volume from being called to: ErrExists, or ErrInvalid for a
// scratch volume, which is one by its name.
func (s *State) CheckRename(v *Volume, to string) error {
	switch {
	case v.Scratch(), to == ScratchName(v.ID):
		return fmt.Errorf("%w: scratch volumes are known by their names", disk.ErrInvalid)
	case s.Volumes[to] != nil:
		return ErrExists
	}
	return CheckName("volume", to)
}

func (s *State) rename(v *Volume, to string) error {
	if err := s.CheckRename(v, to); err != nil {
		return err
	}
	if v.Mark == "" {
		v.Mark = v.Name
		s.marks[v.Mark] = v
	}
	s.renameOf(v.Name+"@", to+"@")
	delete(s.Volumes, v.Name)
	v.Name = to
	s.Volumes[to] = v
	return nil
}

func (s *State) renameSnapshot(v *Volume, from, to string) error {
	sn := v.Snapshots[from]
	switch {
	case sn == nil:
		return ErrNotFound
	case v.Snapshots[to] != nil:
		return ErrExists
	}
	if err := CheckName("snapshot", to); err != nil {
		return err
	}
	for _, w := range s.ByID {
		if w.Of == v.Name+"@"+from {
			w.Of = v.Name + "@" + to
		}
	}
	delete(v.Snapshots, from)
	sn.Name = to
	sn.Automatic = time.Time{} // a user wants to keep it: no policy deletes it any more
	v.Snapshots[to] = sn
	return nil
}

// renameOf changes the beginning of what scratch volumes lie over.
func (s *State) renameOf(from, to string) {
	for _, w := range s.ByID {
		if rest, ok := strings.CutPrefix(w.Of, from); ok {
			w.Of = to + rest
		}
	}
}
