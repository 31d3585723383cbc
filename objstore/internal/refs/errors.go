package refs

import "errors"

// The sentinels of names; package objstore exports them under the same names.
var (
	// ErrNotStore: the directory holds no store.
	ErrNotStore = errors.New("not a varve store")
	// ErrNotFound: no volume, snapshot or root of that name.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("exists already")
)
