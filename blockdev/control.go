package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"varve/uring"
)

const controlPath = "/dev/ublk-control"

// Time limits of control commands. STOP_DEV and DEL_DEV wait for what is in flight and for the last user of
// the character device; START_DEV and END_USER_RECOVERY wait for all queues to have fetched.
const (
	quickCommand = 10 * time.Second
	slowCommand  = 30 * time.Second
)

// control is the way to /dev/ublk-control. Safe for concurrent use until close.
type control struct {
	file *os.File
}

// command is one control command. The driver copies from and to buf.
type command struct {
	name  string // for errors
	op    uint32
	id    int // -1: no device yet
	data  uint64
	buf   []byte
	limit time.Duration // 0: quickCommand
}

func openControl() (*control, error) {
	f, err := os.OpenFile(controlPath, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, ErrNoUblk
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w", ErrPermission, err)
	case err != nil:
		return nil, err
	}
	return &control{file: f}, nil
}

func (c *control) close() { _ = c.file.Close() }

// do sends one command and waits for its answer, for as long as the command's limit and ctx allow.
func (c *control) do(ctx context.Context, cmd command) error {
	if cmd.limit == 0 {
		cmd.limit = quickCommand
	}
	ctx, cancel := context.WithTimeout(ctx, cmd.limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.run(ctx, cmd) }()
	err := <-done
	if errors.Is(err, context.DeadlineExceeded) {
		err = &OpError{Op: cmd.name, ID: cmd.id, Err: fmt.Errorf("%w after %v", ErrTimeout, cmd.limit)}
	}
	return err
}

// commandPoll is how often a waiting command looks whether it may still wait.
const commandPoll = 100 * time.Millisecond

// shortPause is for a kernel that is short of memory.
const shortPause = time.Millisecond

// run submits the command on a ring and a thread of its own: io_uring hands commands that sleep to kernel
// workers of the thread that submitted them, so it has to stay until the answer is there. When ctx ends first,
// closing the ring interrupts the command.
func (c *control) run(ctx context.Context, cmd command) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(uring.Options{Entries: 4, SQE128: true})
	if err != nil {
		return fmt.Errorf("set up control ring: %w", err)
	}
	defer ring.Close() // the command has its answer by then

	// The driver may write into its buffer after this call gave up on it: it gets one of its own.
	own := append([]byte(nil), cmd.buf...)
	h := ublksrv_ctrl_cmd{dev_id: uint32(cmd.id), queue_id: 0xffff, len: uint16(len(own)), addr: uring.Address(own)}
	h.data[0] = cmd.data
	sqe := ring.GetSQE()
	sqe.UringCmd(int32(c.file.Fd()), cmd.op)
	*(*ublksrv_ctrl_cmd)(unsafe.Pointer(&sqe.BigCmd()[0])) = h

	cqes := make([]uring.CQE, 1)
	for ring.Reap(cqes) == 0 {
		err := ring.SubmitAndWaitTimeout(1, commandPoll)
		switch {
		case err == nil, errors.Is(err, uring.ErrTimeout):
		case uring.Transient(err):
			time.Sleep(shortPause)
		default:
			return fmt.Errorf("submit %s: %w", cmd.name, err)
		}
		if ctx.Err() != nil {
			abandon(own)
			return &OpError{Op: cmd.name, ID: cmd.id, Err: ctx.Err()}
		}
	}
	copy(cmd.buf, own)
	if res := cqes[0].Res; res < 0 {
		return opError(cmd.name, cmd.id, unix.Errno(-res))
	}
	return nil
}

// abandoned keeps the buffers of commands that nobody waits for any more: the kernel may still write to them.
var abandoned struct {
	sync.Mutex
	bufs [][]byte
}

func abandon(buf []byte) {
	abandoned.Lock()
	abandoned.bufs = append(abandoned.bufs, buf)
	abandoned.Unlock()
}

// bytesOf is the memory of a struct that a command carries.
func bytesOf[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

func (c *control) addDev(ctx context.Context, info *ublksrv_ctrl_dev_info) error {
	return c.do(ctx, command{name: "ADD_DEV", op: _UBLK_U_CMD_ADD_DEV, id: int(int32(info.dev_id)), buf: bytesOf(info)})
}

func (c *control) setParams(ctx context.Context, id int, p *ublk_params) error {
	p.len = uint32(unsafe.Sizeof(*p))
	return c.do(ctx, command{name: "SET_PARAMS", op: _UBLK_U_CMD_SET_PARAMS, id: id, buf: bytesOf(p)})
}

func (c *control) getParams(ctx context.Context, id int) (ublk_params, error) {
	var p ublk_params
	p.len = uint32(unsafe.Sizeof(p))
	err := c.do(ctx, command{name: "GET_PARAMS", op: _UBLK_U_CMD_GET_PARAMS, id: id, buf: bytesOf(&p)})
	return p, err
}

func (c *control) devInfo(ctx context.Context, id int) (ublksrv_ctrl_dev_info, error) {
	var info ublksrv_ctrl_dev_info
	err := c.do(ctx, command{name: "GET_DEV_INFO", op: _UBLK_U_CMD_GET_DEV_INFO, id: id, buf: bytesOf(&info)})
	return info, err
}

func (c *control) startDev(ctx context.Context, id int) error {
	return c.do(ctx, command{
		name: "START_DEV", op: _UBLK_U_CMD_START_DEV, id: id,
		data: uint64(os.Getpid()), limit: slowCommand,
	})
}

func (c *control) startRecovery(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "START_USER_RECOVERY", op: _UBLK_U_CMD_START_USER_RECOVERY, id: id})
}

func (c *control) endRecovery(ctx context.Context, id int) error {
	return c.do(ctx, command{
		name: "END_USER_RECOVERY", op: _UBLK_U_CMD_END_USER_RECOVERY, id: id,
		data: uint64(os.Getpid()), limit: slowCommand,
	})
}

func (c *control) stopDev(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "STOP_DEV", op: _UBLK_U_CMD_STOP_DEV, id: id, limit: slowCommand})
}

func (c *control) tryStopDev(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "TRY_STOP_DEV", op: _UBLK_U_CMD_TRY_STOP_DEV, id: id, limit: slowCommand})
}

// delDev waits until the number is free again, which takes the last opener of the block device to close it.
func (c *control) delDev(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "DEL_DEV", op: _UBLK_U_CMD_DEL_DEV, id: id, limit: slowCommand})
}

// delDevAsync does not wait: the driver frees the number when the last opener is gone.
func (c *control) delDevAsync(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "DEL_DEV_ASYNC", op: _UBLK_U_CMD_DEL_DEV_ASYNC, id: id})
}

// updateSize tells the driver a new size in bytes. It checks neither alignment nor anything else: the caller has.
func (c *control) updateSize(ctx context.Context, id int, size int64) error {
	return c.do(ctx, command{name: "UPDATE_SIZE", op: _UBLK_U_CMD_UPDATE_SIZE, id: id, data: uint64(size >> sectorShift)})
}

// quiesceDev waits, for at most limit, until every queue has an idle tag, and aborts the fetches.
func (c *control) quiesceDev(ctx context.Context, id int, limit time.Duration) error {
	return c.do(ctx, command{
		name: "QUIESCE_DEV", op: _UBLK_U_CMD_QUIESCE_DEV, id: id,
		data: uint64(limit.Milliseconds()), limit: limit + quickCommand,
	})
}
