package objstore

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// removerRig is a layerRemover with a volume that has one layer: four blocks in its append segment,
// the first of which was adopted as an object.
type removerRig struct {
	*segmentRig
	remover *layerRemover
	v       *volume
	l       *layer
	g       *segment.File
	objs    []segment.Object
	closed  chan struct{}
}

func newRemoverRig(t *testing.T) *removerRig {
	t.Helper()
	r := &removerRig{segmentRig: newSegmentRig(t), closed: make(chan struct{})}
	leaves := &leafCache{
		objects: r.objects, segments: r.segments, lookups: r.pins, images: func() []sweeper { return nil }, limit: 100, log: r.log, life: t.Context(),
	}
	r.remover = &layerRemover{fs: r.fs, segments: r.segments, leaves: leaves, sealer: r.sealer, closed: r.closed}
	ref := &refs.Volume{ID: uuid.New(), Name: "v", Size: 1 << 20}
	r.v = &volume{ref: ref, base: newBase(leaves, merkle.EmptyRoot(ref.Size, rigChunk)), pin: segment.NewPin()}
	r.v.name.Store(&ref.Name)
	r.v.size.Store(ref.Size)
	r.g, r.objs = r.segment(4)
	must(t, r.g.Sync())
	must(t, r.recorder.list(r.g, r.objs[:1]))
	j, err := journal.Create(r.fs, journal.ID{Store: r.store, Volume: ref.ID, Gen: 1}, journal.Origin{}, 1024)
	must(t, err)
	r.l = newLayer(1, j)
	r.l.hand(r.g.ID, disk.BlockSize, r.g.Next)
	r.g.Unsettled.Store(r.g.Next - disk.BlockSize)
	r.g.Full = true
	r.v.appendSegment = r.g
	r.reset()
	return r
}

// wantFreed fails unless the layer is gone, and nothing of it but the object is left.
func (r *removerRig) wantFreed(what string) {
	r.t.Helper()
	r.wantObjects(what, r.g, r.objs[:1])
	if r.exists(r.l.journal.Name()) || !r.g.Sealed() || r.g.Unsettled.Load() != 0 {
		r.t.Errorf("%s: journal %v, sealed %v, %d bytes unsettled", what, r.exists(r.l.journal.Name()), r.g.Sealed(), r.g.Unsettled.Load())
	}
	buf := disk.AlignedBuffer(disk.BlockSize)
	for _, o := range r.objs[1:] {
		_, err := r.g.Data.ReadAt(buf, int64(o.Block)*disk.BlockSize)
		must(r.t, err)
		if merkle.Sum(o.Kind, buf) == o.Hash {
			r.t.Errorf("%s: block %d still has what was written", what, o.Block)
		}
	}
}

// A settled layer is freed once its readers have ended. While they are waited for, the volume can
// settle; a wait that is cancelled changes nothing, and goes on later.
func TestDeadLayerWaitsForReaders(t *testing.T) {
	r := newRemoverRig(t)
	d := &deadLayer{remover: r.remover, v: r.v, l: r.l}
	plan := r.v.pin.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.reclaim(ctx) }()
	for r.first("remove "+r.l.journal.Name()) < 0 { // it goes on to wait
		must(t, t.Context().Err())
	}
	select {
	case err := <-ended:
		t.Fatalf("freed under its reader: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	must(t, r.v.settleMu.LockContext(t.Context()))
	r.v.settleMu.Unlock()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	r.wantObjects("with a reader", r.g, r.objs[:1])
	if r.first("punch") >= 0 || r.g.Sealed() {
		t.Error("the layer was freed under its reader")
	}
	plan.Release()
	must(t, d.reclaim(t.Context()))
	r.wantFreed("without a reader")
}

// Whichever operation fails, reclaiming can be tried again, unless the store is read-only by then.
func TestDeadLayerFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOMEM, syscall.EIO} {
		for at := 0; ; at++ {
			r := newRemoverRig(t)
			d := &deadLayer{remover: r.remover, v: r.v, l: r.l}
			reached := r.failAt(at, errno)
			err := d.reclaim(t.Context())
			r.failWith(nil)
			if !reached() {
				must(t, err)
				r.wantFreed("at once")
				break
			}
			what := errno.Error() + " in " + r.steps[at]
			got, lerr := r.g.Objects()
			if must(t, lerr); len(got) != 1 {
				t.Errorf("%s: %d objects are listed", what, len(got))
			}
			if err != nil && r.gate.writeError() == nil {
				if err := d.reclaim(t.Context()); err != nil {
					t.Errorf("%s, and again: %v", what, err)
				}
				if r.exists(r.l.journal.Name()) {
					t.Errorf("%s, and again: the journal is there", what)
				}
			}
		}
	}
}

// Layers that will not settle are freed like others, with the volume's append segment.
func TestDropLayers(t *testing.T) {
	r := newRemoverRig(t)
	r.v.layers = []*layer{r.l}
	r.l.journal.Close()
	r.v.settleMu.Lock()
	err := r.remover.drop(r.v, r.v.layers)
	r.v.settleMu.Unlock()
	must(t, err)
	r.wantFreed("dropped")
}

// Readers are waited for until they end, or the store closes.
func TestRemoverWaitsForReaders(t *testing.T) {
	r := newRemoverRig(t)
	plan := r.v.pin.Hold()
	old := r.v.pin
	r.v.pin = old.Replace()
	waited := make(chan bool)
	wait := func() { waited <- r.remover.waitReaders(old) }
	go wait()
	select {
	case <-waited:
		t.Error("a reader was not waited for")
	case <-time.After(20 * time.Millisecond):
	}
	plan.Release()
	if !<-waited {
		t.Error("the reader has ended, and the answer is that the store closes")
	}
	other := r.v.pin.Hold()
	defer other.Release()
	old = r.v.pin
	r.v.pin = old.Replace()
	close(r.closed)
	go wait()
	if <-waited {
		t.Error("the store closes, and the answer is that the reader has ended")
	}
}
