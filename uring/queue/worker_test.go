package queue

import (
	"context"
	"testing"
	"time"
)

// patient waits for room with its writes, and has a worker serve everything else.
type patient struct {
	answerer
	room chan struct{}
}

func (patient) Start(r *Request) (Action, error) {
	if r.Op == OpWrite {
		return Await, nil
	}
	return Handoff, nil
}

func (p patient) Work(_ context.Context, r *Request) (Action, error) {
	r.MoveNothing()
	if r.Op == OpWrite {
		<-p.room
	}
	return Answer, nil
}

// However many requests wait for long, one that needs a worker gets one: what ends the wait may
// take longer than a file system is patient.
func TestHandoffsPassAwaits(t *testing.T) {
	const depth, writes = 64, 60
	room := make(chan struct{})
	q, _ := fakeQueue(t, func() Handler { return patient{room: room} }, depth, registered)
	s := q.server
	s.startWorkers(t.Context(), 2)
	stop := func() { close(room); close(s.work); close(s.waits); s.workers.Wait() }
	for tag := range uint16(writes) {
		if err := q.request(tag, OpWrite, 4096*int64(tag), 4096); err != nil {
			t.Fatal(err)
		}
	}
	for tag, op := range map[uint16]Op{writes: OpRead, writes + 1: OpFlush} {
		if err := q.request(tag, op, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	served := map[uint16]bool{}
	for deadline := time.Now().Add(time.Minute); len(served) < 2; time.Sleep(time.Millisecond) {
		q.back.Lock()
		for _, r := range q.back.done {
			served[r.tag] = true
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
			t.Errorf("write %d was answered without room", tag)
		}
	}
	stop()
}

// swift has its requests resumed before it has returned Hold: by Start, and by Work.
type swift struct {
	answerer
	q *Queue
}

func (h swift) Start(r *Request) (Action, error) {
	if r.Op == OpFlush {
		h.q.Resume(r, Answer, nil)
		return Hold, nil
	}
	return Handoff, nil
}

func (swift) Work(_ context.Context, r *Request) (Action, error) {
	r.MoveNothing()
	r.Post(Answer, nil)
	return Hold, nil
}

// Whoever resumes a request may be faster than the handler that returns Hold.
func TestResumedBeforeHold(t *testing.T) {
	h := &swift{}
	q, ring := fakeQueue(t, func() Handler { return h }, 1, registered)
	h.q = q
	for i, op := range []Op{OpFlush, OpWrite, OpWrite, OpFlush} {
		ring.sent = nil
		if err := q.request(0, op, 0, 0); err != nil {
			t.Fatal(err)
		}
		if op == OpWrite {
			j := <-q.server.work
			a, err := j.run(t.Context())
			if err := q.woken(8); err != nil { // of the Post
				t.Fatal(err)
			}
			q.back.put(result{tag: 0, action: a, err: err}, &q.wake)
			if err := q.woken(8); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ring.Submit(); err != nil {
			t.Fatal(err)
		}
		commits := 0
		for _, s := range ring.sent {
			if s.Off == commitOp {
				commits++
			}
		}
		if commits != 1 || q.held != 0 || q.inWork != 0 || q.owned != 0 {
			t.Errorf("request %d: %d commits, %d held, %d in work, %d owned", i, commits, q.held, q.inWork, q.owned)
		}
	}
}
