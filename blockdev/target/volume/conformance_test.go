package volume

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/objstore"
)

const size = 4 << 20

// newVolume makes a store with one volume.
func newVolume(t *testing.T, o objstore.VolumeOptions) (*objstore.Store, *objstore.Volume) {
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

func TestConformance(t *testing.T) {
	targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
		_, v := newVolume(t, objstore.VolumeOptions{Size: size})
		return watch(New(v))
	}})
}

// The same on a volume that settles all the time and has every settled chunk hashed as it is read.
func TestConformanceVerified(t *testing.T) {
	targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
		s, v := newVolume(t, objstore.VolumeOptions{Size: size, BlockSize: 4096, Verify: true})
		ctx, cancel := context.WithCancel(context.Background())
		var settling sync.WaitGroup
		settling.Go(func() {
			for ctx.Err() == nil {
				if err := s.Settle(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("settle: %v", err)
				}
				time.Sleep(time.Millisecond)
			}
		})
		t.Cleanup(func() {
			cancel()
			settling.Wait()
		})
		return watch(New(v))
	}})
}
