package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// State is the state of a device, as the driver reports it.
type State string

// States.
const (
	StateDead     State = "dead"     // not started yet, or stopped
	StateLive     State = "live"     // served
	StateQuiesced State = "quiesced" // its server is gone, requests wait for a successor
	StateFailIO   State = "fail-io"  // its server is gone, requests fail
)

// DeviceInfo describes a ublk device of this machine, of any server.
type DeviceInfo struct {
	ID          int      `json:"id"`
	Path        string   `json:"path"`
	State       State    `json:"state"`
	Flags       uint64   `json:"flags"` // UBLK_F_*
	Queues      int      `json:"queues"`
	Depth       int      `json:"depth"`
	MaxIO       int      `json:"max_io"`     // bytes
	Size        int64    `json:"size"`       // bytes; 0: unknown, like the next two
	BlockSize   int      `json:"block_size"` // bytes
	ReadOnly    bool     `json:"read_only"`
	CopyMode    CopyMode `json:"copy_mode"` // the best that its flags allow
	ServerPID   int      `json:"server_pid"`
	ServerAlive bool     `json:"server_alive"`
	Owner       uint64   `json:"owner"` // Options.Owner of its creator
}

// Orphan reports whether no process serves the device, and it waits for a successor.
func (i *DeviceInfo) Orphan() bool {
	return i.State == StateQuiesced || i.State == StateFailIO || i.State == StateLive && !i.ServerAlive
}

// Recovery is what becomes of the device when its server dies.
func (i *DeviceInfo) Recovery() Recovery {
	switch {
	case i.Flags&_UBLK_F_USER_RECOVERY == 0:
		return RecoveryNone
	case i.Flags&_UBLK_F_USER_RECOVERY_FAIL_IO != 0:
		return RecoveryFailIO
	}
	return RecoveryReissue
}

// Unstarted reports whether the device can serve nothing: it was made and never started, or is half
// removed. Its server may be about to start or to remove it, so only its creator, or a successor of
// that, may delete it.
func (i *DeviceInfo) Unstarted() bool { return i.State == StateDead }

// List describes all ublk devices of this machine, in order of their numbers, as Peek does. If some
// of them can't be described, List returns the others with an error.
func List(ctx context.Context) ([]DeviceInfo, error) {
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	defer c.close()
	ids, err := deviceIDs()
	if err != nil {
		return nil, err
	}
	return describeAll(ids, func(id int) (DeviceInfo, error) { return peek(ctx, c, id) })
}

// answersSoon is how long a device is waited for before the next one is asked too.
const answersSoon = 100 * time.Millisecond

// describeAll is List of some devices. It asks them one after the other, which is fastest where all
// answer, and does not wait for one that takes long before it asks the others: devices that do not
// answer all take up the limit of a command together, and not each of them.
func describeAll(ids []int, describe func(id int) (DeviceInfo, error)) ([]DeviceInfo, error) {
	infos, errs := make([]DeviceInfo, len(ids)), make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		done := make(chan struct{})
		all.Go(func() {
			defer close(done)
			infos[i], errs[i] = describe(id)
		})
		select {
		case <-done:
		case <-time.After(answersSoon):
		}
	}
	all.Wait()
	list := make([]DeviceInfo, 0, len(ids))
	var failed []error
	for i, err := range errs {
		switch {
		case err == nil:
			list = append(list, infos[i])
		case errors.Is(err, ErrNoDevice) || errors.Is(err, ErrPermission): // gone meanwhile, or an unprivileged device of another user
		default:
			failed = append(failed, fmt.Errorf("ublk device %d: %w", ids[i], err))
		}
	}
	return list, errors.Join(failed...)
}

// Info describes the device with the given number, with the parameters that it was made with. It
// waits for the device's lock in the driver, and so does the end of the calling process: call it
// only for a device that is this program's to serve, and Peek for any other.
func Info(ctx context.Context, id int) (DeviceInfo, error) {
	c, err := openControl()
	if err != nil {
		return DeviceInfo{}, err
	}
	defer c.close()
	d, err := peek(ctx, c, id)
	if err != nil {
		return d, err
	}
	p, err := c.getParams(ctx, id)
	if err != nil {
		return d, err
	}
	if p.types&_UBLK_PARAM_TYPE_BASIC != 0 { // else its parameters were never set
		d.Size, d.BlockSize = int64(p.basic.dev_sectors)<<sectorShift, 1<<p.basic.logical_bs_shift
		d.ReadOnly = p.basic.attrs&_UBLK_ATTR_READ_ONLY != 0
	}
	return d, nil
}

// Peek describes the device with the given number without waiting for it. The driver holds a
// device's lock while the device is stopped, which may take as long as its server does not answer,
// and a command that waits for that lock cannot be interrupted: not even the process that sent it
// can end (ublk_ctrl_get_params and ublk_stop_dev in drivers/block/ublk_drv.c, 7.3). GET_DEV_INFO
// takes no lock, and sysfs has the rest: size, block size and whether the device is read-only, once
// it has been started.
func Peek(ctx context.Context, id int) (DeviceInfo, error) {
	c, err := openControl()
	if err != nil {
		return DeviceInfo{}, err
	}
	defer c.close()
	return peek(ctx, c, id)
}

func peek(ctx context.Context, c *control, id int) (DeviceInfo, error) {
	info, err := c.devInfo(ctx, id)
	if err != nil {
		return DeviceInfo{}, err
	}
	d := DeviceInfo{
		ID: id, Path: blockPath(id), State: stateOf(info.state), Flags: info.flags,
		Queues: int(info.nr_hw_queues), Depth: int(info.queue_depth), MaxIO: int(info.max_io_buf_bytes),
		ServerPID: int(info.ublksrv_pid), Owner: info.ublksrv_flags,
	}
	d.ServerAlive = d.State == StateLive && alive(d.ServerPID)
	if mode, err := chooseMode(CopyAuto, info.flags); err == nil {
		d.CopyMode = modeNames[mode]
	}
	disk := filepath.Join("/sys/class/block", filepath.Base(d.Path))
	d.Size = number(filepath.Join(disk, "size")) << sectorShift
	d.BlockSize = int(number(filepath.Join(disk, "queue/logical_block_size")))
	d.ReadOnly = number(filepath.Join(disk, "ro")) != 0
	return d, nil
}

// number returns the number in a file of sysfs, or 0 if there is none.
func number(file string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // 0 then, too
	return n
}

func stateOf(s uint16) State {
	switch s {
	case _UBLK_S_DEV_DEAD:
		return StateDead
	case _UBLK_S_DEV_LIVE:
		return StateLive
	case _UBLK_S_DEV_QUIESCED:
		return StateQuiesced
	case _UBLK_S_DEV_FAIL_IO:
		return StateFailIO
	}
	return State(fmt.Sprintf("state %d", s))
}

// deviceIDs finds the devices by their class, or, where sysfs is not mounted, by their nodes.
func deviceIDs() ([]int, error) {
	names, err := filepath.Glob("/sys/class/ublk-char/ublkc*")
	if err != nil {
		return nil, err
	}
	if names == nil {
		if names, err = filepath.Glob("/dev/ublkc[0-9]*"); err != nil {
			return nil, err
		}
	}
	var ids []int
	for _, name := range names {
		if id, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(name), "ublkc")); err == nil {
			ids = append(ids, id)
		}
	}
	sort.Ints(ids)
	return ids, nil
}
