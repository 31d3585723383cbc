package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const controlPath = "/dev/ublk-control"

// Time limits of control commands. STOP_DEV and DEL_DEV wait for what is in flight and for the last
// user of the character device; START_DEV and END_USER_RECOVERY wait for all queues to have
// fetched.
const (
	quickCommand = 10 * time.Second
	slowCommand  = 30 * time.Second
)

// control is the open /dev/ublk-control. Safe for concurrent use until close.
type control struct {
	file *os.File

	mu   sync.Mutex // guards what follows
	kept *submitter // idle, for the next command; nil: none
	rare bool       // commands have become rare, and a submitter is not worth keeping
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

func (c *control) close() {
	c.rest()
	_ = c.file.Close() // nothing was written to it
}

// rest closes the idle submitter, whose ring and thread many commands in a row have shared. From
// now on each command makes its own.
func (c *control) rest() {
	c.mu.Lock()
	s := c.kept
	c.kept, c.rare = nil, true
	c.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// take returns a submitter for the caller's exclusive use, until put.
func (c *control) take() *submitter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.kept; s != nil {
		c.kept = nil
		return s
	}
	return newSubmitter()
}

func (c *control) put(s *submitter) {
	c.mu.Lock()
	keep := c.kept == nil && !c.rare && !s.broken
	if keep {
		c.kept = s
	}
	c.mu.Unlock()
	if !keep {
		s.close()
	}
}

// do sends one command and waits for its answer, for as long as the command's limit and ctx allow.
func (c *control) do(ctx context.Context, cmd command) error {
	if cmd.limit == 0 {
		cmd.limit = quickCommand
	}
	ctx, cancel := context.WithTimeout(ctx, cmd.limit)
	defer cancel()
	s := c.take()
	err := retry(ctx, cmd.limit, func() (bool, error) {
		err := s.submit(ctx, int32(c.file.Fd()), &cmd)
		return errors.Is(err, unix.ECANCELED), err // it was not begun; see uring.Passing
	})
	c.put(s)
	if errors.Is(err, context.DeadlineExceeded) {
		err = &OpError{Op: cmd.name, ID: cmd.id, Err: fmt.Errorf("%w after %v", ErrTimeout, cmd.limit)}
	}
	return err
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

// affinity returns the CPUs whose requests go to a queue, as a mask.
func (c *control) affinity(ctx context.Context, id, queue int) ([]byte, error) {
	mask := make([]byte, maxCPUs/8)
	err := c.do(ctx, command{
		name: "GET_QUEUE_AFFINITY", op: _UBLK_U_CMD_GET_QUEUE_AFFINITY, id: id, data: uint64(queue), buf: mask,
	})
	return mask, err
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

// delDev waits until the number is free again, which takes the last opener of the block device to
// close it.
func (c *control) delDev(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "DEL_DEV", op: _UBLK_U_CMD_DEL_DEV, id: id, limit: slowCommand})
}

// delDevAsync does not wait: the driver frees the number when the last opener is gone.
func (c *control) delDevAsync(ctx context.Context, id int) error {
	return c.do(ctx, command{name: "DEL_DEV_ASYNC", op: _UBLK_U_CMD_DEL_DEV_ASYNC, id: id})
}

// updateSize tells the driver a new size in bytes. It checks neither alignment nor anything else:
// the caller has.
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
