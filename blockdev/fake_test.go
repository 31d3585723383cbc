package blockdev

import (
	"log/slog"
	"testing"
	"time"
	"unsafe"

	"varve/uring"
)

// fakeRing holds what is submitted and completes nothing by itself.
type fakeRing struct {
	uring.Registrar
	room []uring.SQE
	n    int
	sent []uring.SQE
}

func (r *fakeRing) GetSQE() *uring.SQE {
	if r.n == len(r.room) {
		return nil
	}
	s := &r.room[r.n]
	*s = uring.SQE{}
	r.n++
	return s
}

func (r *fakeRing) Submit() (int, error) {
	n := r.n
	r.sent = append(r.sent, r.room[:n]...)
	r.n = 0
	return n, nil
}

func (r *fakeRing) SubmitAndWait(uint32, uring.WaitMode) error {
	_, err := r.Submit()
	return err
}
func (r *fakeRing) SubmitAndWaitTimeout(uint32, time.Duration) error { return uring.ErrTimeout }
func (r *fakeRing) Reap([]uring.CQE) int                             { return 0 }
func (r *fakeRing) Info() uring.Info                                 { return uring.Info{} }
func (r *fakeRing) Close() error                                     { return nil }

// fakeQueue is a queue whose driver, ring and workers are the test.
func fakeQueue(t testing.TB, target Target, depth int, mode transferMode) (*queue, *fakeRing) {
	lim := target.Limits()
	d := &Device{
		target: target, transfer: mode, maxIO: 1 << 20, depth: depth, nrQueues: 1,
		log: slog.New(slog.DiscardHandler), work: make(chan job, depth),
	}
	d.waits = d.work
	if mode == zeroCopy {
		d.flags = _UBLK_F_AUTO_BUF_REG
	}
	d.size.Store(lim.Size)
	ring := &fakeRing{room: make([]uring.SQE, 8)}
	q := &queue{dev: d, ring: ring, desc: make([]byte, depth*sizeofIODesc)}
	if mode == plainCopy {
		q.mapped = [][]byte{make([]byte, depth*d.maxIO)}
	}
	if err := q.wake.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.wake.close(); err != nil {
			t.Error(err)
		}
	})
	if err := q.makeSlots(); err != nil {
		t.Fatal(err)
	}
	for i := range q.slots {
		q.slots[i].state = slotKernel
	}
	return q, ring
}

// request makes the driver deliver a request.
func (q *queue) request(tag uint16, op, flags uint32, sector uint64, sectors uint32) error {
	d := (*ublksrv_io_desc)(unsafe.Pointer(&q.desc[int(tag)*sizeofIODesc]))
	d.op_flags, d.start_sector, d.nr_sectors = op|flags, sector, sectors
	return q.take(&uring.CQE{UserData: uint64(uring.Pack(uring.KindFetch, 0, 0, tag))})
}
