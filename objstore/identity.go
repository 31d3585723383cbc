package objstore

import "github.com/google/uuid"

// FilesUUID is the UUID that the store's files carry, and those of its copies.
func (s *Store) FilesUUID() string { return s.sb.ID.String() }

// NewUUID sets and returns another UUID by which the store is known. Its files keep the one that
// they carry.
func (s *Store) NewUUID() (string, error) {
	if err := s.sb.rename(uuid.New()); err != nil {
		return "", err
	}
	return s.sb.known(), nil
}
