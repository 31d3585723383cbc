package blockdev

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/uring"
)

// submitter sends control commands one after another, on a ring and a thread of its own. io_uring
// hands commands that sleep, which is nearly all of them, to a kernel worker of the thread that
// submitted them: that thread has to stay until the answer is there. Making ring, thread and worker
// takes longer than most commands, so those that follow one another share them.
type submitter struct {
	orders chan order
	done   chan struct{} // closed when the thread has ended
	broken bool          // a command is still under way, or the ring failed; owned by the taker until put
}

type order struct {
	ctx    context.Context //nolint:containedctx // of one command, on its way to the thread that sends it
	file   int32           // /dev/ublk-control
	cmd    *command
	answer chan<- error
}

func newSubmitter() *submitter {
	s := &submitter{orders: make(chan order), done: make(chan struct{})}
	go s.run()
	return s
}

// submit sends a command and waits for its answer, or until ctx ends. One caller at a time.
func (s *submitter) submit(ctx context.Context, file int32, cmd *command) error {
	answer := make(chan error, 1)
	s.orders <- order{ctx, file, cmd, answer}
	return <-answer
}

// close ends the thread and waits for its end, which interrupts a command that was given up.
func (s *submitter) close() {
	close(s.orders)
	<-s.done
}

func (s *submitter) run() {
	defer close(s.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(uring.Options{Entries: 4, SQE128: true})
	if err == nil {
		defer ring.Close() // by then no caller waits for an answer
	}
	for o := range s.orders {
		switch {
		case err != nil:
			s.broken = true
			o.answer <- fmt.Errorf("set up control ring: %w", err)
		case s.broken:
			o.answer <- fmt.Errorf("submit %s: the control ring is broken", o.cmd.name)
		default:
			o.answer <- s.send(ring, &o)
		}
	}
}

// commandPoll is how often a waiting command checks whether it may still wait.
const commandPoll = 100 * time.Millisecond

// shortPause is the pause before another try when the kernel is short of memory.
const shortPause = time.Millisecond

// send sends one command. After a command that was given up the ring is broken: its completion may
// still come.
func (s *submitter) send(ring uring.Ring, o *order) error {
	cmd := o.cmd
	// The driver may write into the command's buffer after this call has given up: so it gets a
	// buffer of its own.
	own := append([]byte(nil), cmd.buf...)
	h := ublksrv_ctrl_cmd{dev_id: uint32(cmd.id), queue_id: 0xffff, len: uint16(len(own)), addr: uring.Address(own)}
	h.data[0] = cmd.data
	sqe := ring.GetSQE()
	sqe.UringCmd(o.file, cmd.op)
	*(*ublksrv_ctrl_cmd)(unsafe.Pointer(&sqe.BigCmd()[0])) = h

	cqes := make([]uring.CQE, 1)
	for ring.Reap(cqes) == 0 {
		err := ring.SubmitAndWaitTimeout(1, commandPoll)
		switch {
		case err == nil, errors.Is(err, uring.ErrTimeout):
		case uring.Transient(err):
			time.Sleep(shortPause)
		default:
			s.broken = true
			abandon(own)
			return fmt.Errorf("submit %s: %w", cmd.name, err)
		}
		if o.ctx.Err() != nil {
			s.broken = true
			abandon(own)
			return &OpError{Op: cmd.name, ID: cmd.id, Err: o.ctx.Err()}
		}
	}
	copy(cmd.buf, own)
	if res := cqes[0].Res; res < 0 {
		return opError(cmd.name, cmd.id, unix.Errno(-res))
	}
	return nil
}

// abandoned keeps the buffers of commands that were given up: the kernel may still write to them.
var abandoned struct {
	sync.Mutex
	bufs [][]byte
}

func abandon(buf []byte) {
	abandoned.Lock()
	abandoned.bufs = append(abandoned.bufs, buf)
	abandoned.Unlock()
}
