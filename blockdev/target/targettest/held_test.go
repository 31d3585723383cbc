package targettest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/blockdev/target/targettest"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// elsewhere is a disk in memory whose requests are served by a goroutine of each part, as by one
// that reads an encrypted connection.
type elsewhere struct {
	mem   []byte
	drops atomic.Int64
}

func newElsewhere() *elsewhere { return &elsewhere{mem: make([]byte, size)} }

func (*elsewhere) Limits() target.Limits { return target.Limits{Size: size, Cache: true} }

func (e *elsewhere) NewPart(*queue.Queue) (queue.Part, error) {
	p := &elsewherePart{elsewhere: e, requests: make(chan *queue.Request, 64), ended: make(chan struct{})}
	go p.serve()
	return p, nil
}

type elsewherePart struct {
	*elsewhere
	requests chan *queue.Request
	ended    chan struct{}
}

func (p *elsewherePart) NewHandler(uint16) queue.Handler { return elsewhereHandler{p} }
func (p *elsewherePart) Files() []int                    { return nil }
func (p *elsewherePart) Close() error                    { close(p.requests); <-p.ended; return nil }

func (p *elsewherePart) serve() {
	defer close(p.ended)
	for r := range p.requests {
		var err error
		switch b := p.mem[r.Off : r.Off+int64(r.Len)]; r.Op {
		case queue.OpRead:
			err = r.Fill(b, 0)
		case queue.OpWrite:
			err = r.Take(b, 0)
		case queue.OpFlush:
		default:
			err = unix.EOPNOTSUPP
		}
		r.Post(queue.Answer, err)
	}
}

type elsewhereHandler struct{ *elsewherePart }

func (h elsewhereHandler) Start(r *queue.Request) (queue.Action, error) {
	h.requests <- r // never full: it has room for each tag
	return queue.Hold, nil
}

func (elsewhereHandler) Finish(*queue.Request, error) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

func (elsewhereHandler) Work(context.Context, *queue.Request) (queue.Action, error) {
	return queue.Answer, queue.ErrInvalid
}

func (h elsewhereHandler) Drop(*queue.Request) { h.drops.Add(1) }

func TestHeld(t *testing.T) {
	targettest.Test(t, targettest.Options{
		Open:          func(*testing.T) target.Target { return newElsewhere() },
		NoSecondaries: true,
	})
}

// silent holds requests and never answers.
type silent struct{ *elsewhere }

func (s silent) NewPart(*queue.Queue) (queue.Part, error) {
	return queue.Handlers{New: func() queue.Handler { return silentHandler{elsewhereHandler{&elsewherePart{elsewhere: s.elsewhere}}} }}, nil
}

type silentHandler struct{ elsewhereHandler }

func (silentHandler) Start(*queue.Request) (queue.Action, error) { return queue.Hold, nil }

// A request that nobody resumes is left to a successor, unanswered, when the server is stopped: it
// does not keep the queue from ending.
func TestHeldForever(t *testing.T) {
	e := newElsewhere()
	d := queuetest.Start(t, queuetest.Options{NewPart: silent{e}.NewPart})
	answers := make(chan error, 3)
	for range cap(answers) {
		go func() { answers <- d.Do(&queuetest.IO{Op: queue.OpFlush}) }()
	}
	for d.Server().Stats().Flushes < 3 {
		time.Sleep(time.Millisecond)
	}
	d.Server().Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		if err := <-answers; !errors.Is(err, queuetest.ErrStopped) {
			t.Errorf("a request that was left: %v", err)
		}
	}
	if n := e.drops.Load(); n != 3 {
		t.Errorf("%d drops, want 3", n)
	}
}
