// Package storetest makes stores on disk for the tests of packages above objstore.
package storetest

import (
	"path/filepath"
	"testing"

	"varve/objstore"
)

// Volume makes a store with default options and one volume, v. Both are open until the end of the
// test, when closing them must not fail.
func Volume(t testing.TB, o objstore.VolumeOptions) (*objstore.Store, *objstore.Volume) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := objstore.Open(t.Context(), dir, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	if _, err := s.CreateVolume(t.Context(), "v", o); err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume("v", "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Errorf("close volume: %v", err)
		}
	})
	return s, v
}
