package fs

import "varve/objstore"

// Store returns a Source that shows a store. The store must stay open until the mount has ended.
func Store(s *objstore.Store) Source { return store{s} }

// store adapts *objstore.Store, whose methods return concrete types, to this package's interfaces.
type store struct{ *objstore.Store }

func (s store) OpenVolume(name, user string) (Volume, error) {
	v, err := s.Store.OpenVolume(name, user)
	if err != nil {
		return nil, err // not v: a nil *Volume in an interface is not nil
	}
	return v, nil
}

func (s store) OpenSnapshot(volume, snap string) (Image, error) {
	v, err := s.Store.OpenSnapshot(volume, snap)
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (s store) OpenRoot(root string) (Image, error) {
	v, err := s.Store.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (s store) Space() (used, free int64, err error) {
	st, err := s.Stat()
	if err != nil {
		return 0, 0, err
	}
	return st.Used, st.Free, nil
}
