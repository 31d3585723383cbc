package queue

import (
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// fakeDriver is a driver whose requests the test writes. Its fetches and commits are no-ops with
// the answer in them.
type fakeDriver struct {
	what    []Request // for each tag, the exported fields
	lending buffer
	mem     [][]byte
}

// commitOp marks a commit among the entries.
const commitOp = 0x77

func (d *fakeDriver) Fetch(sqe *uring.SQE, _ uint16) { sqe.Nop() }

func (d *fakeDriver) Describe(tag uint16, res int32, r *Request) error {
	if errno := unix.Errno(-res); errno == unix.ENODEV {
		return ErrGone
	}
	w := &d.what[tag]
	r.Op, r.FUA, r.NoUnmap, r.Off, r.Len = w.Op, w.FUA, w.NoUnmap, w.Off, w.Len
	if d.lending == mapped {
		r.Mapped(d.mem[tag])
	} else {
		r.Registered(0)
	}
	if r.Off < 0 {
		return ErrInvalid
	}
	return nil
}

func (d *fakeDriver) Commit(sqe *uring.SQE, tag uint16, r *Request, err error) {
	sqe.Nop()
	sqe.Off, sqe.Addr, sqe.Len = commitOp, uint64(tag), uint32(r.Len)
	if err != nil {
		sqe.Len = failedLen
	}
}

// failedLen is the length of a commit with an error.
const failedLen = ^uint32(0)

func (*fakeDriver) Close(bool) error { return nil }

// fakeQueue is a queue whose driver, ring and workers are the test.
func fakeQueue(t testing.TB, newHandler func() Handler, depth int, lending buffer) (*Queue, *fakeRing) {
	s := &Server{
		opts: Options{Queues: 1, Depth: depth, MaxIO: 1 << 20},
		log:  slog.New(slog.DiscardHandler), work: make(chan job, depth),
	}
	s.waits = s.work
	ring := &fakeRing{room: make([]uring.SQE, 8)}
	d := &fakeDriver{what: make([]Request, depth), lending: lending}
	for range depth {
		d.mem = append(d.mem, make([]byte, s.opts.MaxIO))
	}
	q := &Queue{server: s, ring: ring, driver: d, part: Handlers{New: newHandler}}
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
func (q *Queue) request(tag uint16, op Op, off int64, length int) error {
	q.driver.(*fakeDriver).what[tag] = Request{Op: op, Off: off, Len: length}
	return q.take(&uring.CQE{UserData: uint64(uring.Pack(uring.KindFetch, 0, 0, tag))})
}
