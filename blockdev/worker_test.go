package blockdev

import (
	"context"
	"testing"
	"time"

	"varve/objstore"
)

// fullVolume has no room for writes until it is told.
type fullVolume struct {
	memVolume
	room chan struct{}
}

func (v *fullVolume) Reserve(off int64, length int, w *objstore.Write) error {
	select {
	case <-v.room:
		*w = objstore.Write{FD: 7, FileOff: off, Off: off, Len: length}
		return nil
	default:
		return objstore.ErrBusy
	}
}

func (v *fullVolume) Wait(context.Context) error { <-v.room; return nil }

func (v *fullVolume) Plan(int64, int, *objstore.Plan) error { return objstore.ErrNotLoaded }

func (v *fullVolume) Load(context.Context, int64, int) error { return nil }

// However many writes wait for room, a read that needs a worker, and a flush, get one: settling, which gives the room,
// may take longer than a file system is patient.
func TestReadsPassWritesThatWait(t *testing.T) {
	const depth, writes = 64, 60
	v := &fullVolume{room: make(chan struct{})}
	q, _ := fakeQueue(t, NewVolume(v), depth, zeroCopy)
	d := q.dev
	d.startWorkers(t.Context(), 2)
	stop := func() { close(v.room); close(d.work); close(d.waits); d.workers.Wait() }
	for tag := range uint16(writes) {
		if err := q.request(tag, _UBLK_IO_OP_WRITE, 0, 8*uint64(tag), 8); err != nil {
			t.Fatal(err)
		}
	}
	for tag, op := range map[uint16]uint32{writes: _UBLK_IO_OP_READ, writes + 1: _UBLK_IO_OP_FLUSH} {
		if err := q.request(tag, op, 0, 0, 8); err != nil {
			t.Fatal(err)
		}
	}
	served := map[uint16]bool{}
	for deadline := time.Now().Add(10 * time.Second); len(served) < 2; time.Sleep(time.Millisecond) {
		q.back.Lock()
		for _, tag := range q.back.done {
			served[tag] = true
		}
		q.back.done = q.back.done[:0]
		q.back.Unlock()
		if time.Now().After(deadline) {
			stop()
			t.Fatalf("served %v while %d writes wait for room; want the read and the flush", served, writes)
		}
	}
	for tag := range served {
		if tag < writes {
			t.Errorf("write %d was let go without room", tag)
		}
	}
	stop()
}
