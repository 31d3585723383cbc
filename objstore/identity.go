package objstore

import "github.com/google/uuid"

// FilesUUID is the UUID that the store's files carry, and those of its copies.
func (s *Store) FilesUUID() string { return s.sb.ID.String() }

// NewUUID sets and returns another UUID by which the store is known. Its files keep the one that
// they carry.
func (s *Store) NewUUID() (string, error) {
	if err := s.writeError(); err != nil {
		return "", err
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	sb := *s.sb
	sb.KnownAs = uuid.New()
	if err := sb.Write(s.fs); err != nil {
		return "", s.spaceError(err)
	}
	id := sb.Known().String()
	s.uuid.Store(&id)
	return id, nil
}
