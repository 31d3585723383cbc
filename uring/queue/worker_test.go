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
	for deadline := time.Now().Add(10 * time.Second); len(served) < 2; time.Sleep(time.Millisecond) {
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
