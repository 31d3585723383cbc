package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/queuethread"
)

// In all tests of the package, whatever a queueVolume does is watched: a file operation, or a lock
// that is held over I/O, ends the test with its stack.
func TestMain(m *testing.M) {
	queuethread.Watch(func(violation string) { panic(violation) })
	os.Exit(m.Run())
}

// queueVolume calls a volume as the thread of a device's queue does.
type queueVolume struct{ *Volume }

func (q queueVolume) Plan(off int64, length int, p *Plan) (err error) {
	queuethread.Run(func() { err = q.Volume.Plan(off, length, p) })
	return err
}

func (q queueVolume) Release(p *Plan) { queuethread.Run(func() { q.Volume.Release(p) }) }

func (q queueVolume) Reserve(off int64, length int, w *Write) (err error) {
	queuethread.Run(func() { err = q.Volume.Reserve(off, length, w) })
	return err
}

func (q queueVolume) Commit(w *Write) (err error) {
	queuethread.Run(func() { err = q.Volume.Commit(w) })
	return err
}

func (q queueVolume) Abort(w *Write) { queuethread.Run(func() { q.Volume.Abort(w) }) }

func (q queueVolume) TryZero(off, length int64) (err error) {
	queuethread.Run(func() { err = q.Volume.TryZero(off, length) })
	return err
}

func (q queueVolume) TryFlush() (err error) {
	queuethread.Run(func() { err = q.Volume.TryFlush() })
	return err
}

// read, write, zero and flush serve a request: the queue's thread begins and ends it, and somebody else
// waits and moves the bytes.

func (q queueVolume) read(p []byte, off int64) error {
	var plan Plan
	if err := planLoaded(context.Background(), q, off, len(p), &plan); err != nil {
		return err
	}
	defer q.Release(&plan)
	return readPieces(&plan, p)
}

func (q queueVolume) write(p []byte, off int64) error {
	var w Write
	if err := q.retry(context.Background(), off, int64(len(p)), false, func() error { return q.Reserve(off, len(p), &w) }); err != nil {
		return err
	}
	if err := disk.WriteAligned(w.seg.Data, p, w.FileOff); err != nil {
		q.Abort(&w)
		return err
	}
	return q.Commit(&w)
}

func (q queueVolume) flush() error {
	if err := q.TryFlush(); !errors.Is(err, ErrBusy) {
		return err
	}
	return q.Flush()
}

func (q queueVolume) zero(off, length int64) error {
	return q.retry(context.Background(), off, length, true, func() error { return q.TryZero(off, length) })
}

// A queue's thread does no I/O and waits for none: while the journal outgrows its windows, segments
// and the budget of room run out, a maximum has the store's files counted, leaves leave the cache,
// and volumes beside it are flushed, frozen, settled, named and deleted.
func TestQueueThreadNeverBlocks(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, Options{LeafCache: smallestLeaves, SettleDelay: -1, TailSoft: 1 << 30, TailHard: 1 << 30, JournalRecords: 4 * journal.WindowRecords})
	must(t, r.s.SetMaxSize(t.Context(), 1<<40))
	const size = 64 << 20
	v := r.volume("queue", size)
	for _, named := range []bool{false, true} { // whether snapshots of the volume begin new journals all the time
		beside := make(chan error, 1)
		ended := make(chan struct{})
		go func() { beside <- besideQueue(ctx, r.s, named, ended) }()
		var queues sync.WaitGroup
		for n := range 2 {
			queues.Go(func() {
				must(t, serveQueue(queueVolume{v}, rand.New(rand.NewPCG(uint64(n), 1)), journal.WindowRecords))
			})
		}
		queues.Wait()
		close(ended)
		must(t, <-beside)
		if n := v.active().journal.Count(); !named && n < journal.WindowRecords {
			t.Errorf("only %d records in the journal: no window was added", n)
		}
	}
	must(t, v.Flush())
}

// serveQueue serves so many random requests.
func serveQueue(q queueVolume, rng *rand.Rand, requests int) error {
	const largest = 64 << 10
	buf := disk.AlignedBuffer(largest)
	for range requests {
		length := (1 + rng.Int64N(16)) * SectorSize
		off := rng.Int64N((q.Size()-length)/SectorSize) * SectorSize
		var err error
		switch k := rng.IntN(100); {
		case k < 1:
			err = q.write(buf, rng.Int64N(q.Size()/largest)*largest)
		case k < 11:
			err = q.write(buf[:length], off)
		case k < 21:
			err = q.read(buf[:length], off)
		case k < 22:
			err = errors.Join(q.flush(), q.flush())
		default:
			err = q.zero(off, length)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// besideQueue does what blocks, until ended is closed.
func besideQueue(ctx context.Context, s *Store, named bool, ended <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-ended:
			return nil
		default:
		}
		name := fmt.Sprintf("beside%d", i)
		if _, err := s.CreateVolume(ctx, name, VolumeOptions{Size: 16 << 20}); err != nil {
			return err
		}
		v, err := s.OpenVolume(name, "test")
		if err != nil {
			return err
		}
		_, err = v.WriteAt(randomBytes(uint64(i), 1<<20), 0)
		snap := fmt.Sprintf("s%d", i)
		_, serr := s.CreateSnapshot(ctx, name, snap)
		_, werr := s.WaitSnapshot(ctx, name, snap)
		if named && err == nil {
			_, err = s.CreateSnapshot(ctx, "queue", snap)
		}
		err = errors.Join(err, serr, werr, v.Close(), s.DeleteSnapshot(ctx, name, snap), s.DeleteVolume(ctx, name))
		if err != nil {
			return err
		}
	}
}
