package volume

import (
	"context"
	"sync"
	"testing"
	"time"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/objstore"
	"varve/objstore/storetest"
)

const size = 4 << 20

func TestConformance(t *testing.T) {
	targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
		_, v := storetest.Volume(t, objstore.VolumeOptions{Size: size})
		return watch(New(v))
	}})
}

// The same on a volume that settles all the time and has every settled chunk hashed as it is read.
func TestConformanceVerified(t *testing.T) {
	targettest.Test(t, targettest.Options{Open: func(t *testing.T) target.Target {
		s, v := storetest.Volume(t, objstore.VolumeOptions{Size: size, BlockSize: 4096, Verify: true})
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
