package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"varve/objstore/vfs"
)

func TestFlushAfterSegmentRetired(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	// Zeroes settle to holes: nothing of the first segment is adopted, and it goes without ever
	// being flushed.
	for range 3 {
		r.write(v, make([]byte, 4<<20), 0)
	}
	must(t, r.s.Settle(context.Background()))
	r.write(v, randomBytes(1, 4096), 0)
	must(t, v.Flush())
}

// A flush that meets the end of its store says so, or was in time: what it has answered is durable.
func TestFlushBesideClose(t *testing.T) {
	for i := range 100 {
		r := newRig(t, Options{})
		v := r.volume("a", 1<<20)
		var wg sync.WaitGroup
		var flushed [3]int
		for k := range flushed {
			wg.Go(func() {
				for j := 1; ; j++ {
					_, err := v.WriteAt(randomBytes(uint64(j), SectorSize), int64(k)*SectorSize)
					if err == nil {
						if err = v.Flush(); err == nil {
							flushed[k] = j
						}
					}
					if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, os.ErrClosed) {
						t.Error(err)
					}
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(i%10) * 100 * time.Microsecond)
		must(t, r.s.Close())
		wg.Wait()
		must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(uint64(i), 1))), "next boot"))
		v = r.volume("a", 0)
		for k, n := range flushed {
			got := make([]byte, SectorSize)
			_, err := v.ReadAt(got, int64(k)*SectorSize)
			must(t, err)
			if n > 0 && string(got) != string(randomBytes(uint64(n), SectorSize)) && string(got) != string(randomBytes(uint64(n+1), SectorSize)) {
				t.Fatalf("round %d: writer %d was told that write %d is durable, and it is not there", i, k, n)
			}
		}
	}
}

// memoryFS is a disk that counts as a file system in memory.
type memoryFS struct{ vfs.FS }

func (memoryFS) InMemory() bool { return true }

// A flush that would wait for a disk, or for another flush, is refused where it must not wait;
// whatever is answered is durable.
func TestTryFlush(t *testing.T) {
	for _, inMemory := range []bool{false, true} {
		t.Run(fmt.Sprintf("in memory %v", inMemory), func(t *testing.T) {
			r := newRig(t, Options{})
			must(t, r.s.Close())
			if r.o.FS = r.mem; inMemory {
				r.o.FS = memoryFS{r.mem}
			}
			var err error
			r.s, err = Open(t.Context(), "mem", r.o)
			must(t, err)
			v := queueVolume{r.volume("a", 1<<20)}
			must(t, v.TryFlush())
			r.write(v.Volume, randomBytes(1, 4096), 0)
			if err := v.TryFlush(); !errors.Is(err, ErrBusy) && (!inMemory || err != nil) {
				t.Fatalf("with something to do: %v", err)
			}
			if !inMemory {
				must(t, v.Flush())
			}
			must(t, v.TryFlush())
			v.commitMu.Lock()
			must(t, v.TryFlush()) // nothing to do, whoever flushes
			must(t, v.zero(4096, 4096))
			if err := v.TryFlush(); !errors.Is(err, ErrBusy) {
				t.Errorf("beside another flush: %v", err)
			}
			v.commitMu.Unlock()
			must(t, v.flush())
			must(t, r.reopened(r.mem.PowerCut(newRand(1)), "next boot"))
			got := make([]byte, 4096)
			v = queueVolume{r.volume("a", 0)}
			_, err = v.ReadAt(got, 0)
			must(t, err)
			if string(got) != string(randomBytes(1, 4096)) {
				t.Error("what was flushed is lost")
			}
			_ = r.s.fail(errors.New("broken"))
			if err := v.TryFlush(); !errors.Is(err, ErrReadOnly) {
				t.Errorf("on a store that has failed: %v", err)
			}
		})
	}
}
