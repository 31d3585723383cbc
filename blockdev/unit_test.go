package blockdev

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"varve/blockdev/target"
	"varve/uring/queue"
)

// The numbers are what a C compiler makes of include/uapi/linux/ublk_cmd.h of Linux 7.3.
func TestCommandNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint32
	}{
		{"UBLK_U_CMD_GET_QUEUE_AFFINITY", _UBLK_U_CMD_GET_QUEUE_AFFINITY, 0x80207501},
		{"UBLK_U_CMD_GET_DEV_INFO", _UBLK_U_CMD_GET_DEV_INFO, 0x80207502},
		{"UBLK_U_CMD_ADD_DEV", _UBLK_U_CMD_ADD_DEV, 0xc0207504},
		{"UBLK_U_CMD_DEL_DEV", _UBLK_U_CMD_DEL_DEV, 0xc0207505},
		{"UBLK_U_CMD_START_DEV", _UBLK_U_CMD_START_DEV, 0xc0207506},
		{"UBLK_U_CMD_STOP_DEV", _UBLK_U_CMD_STOP_DEV, 0xc0207507},
		{"UBLK_U_CMD_SET_PARAMS", _UBLK_U_CMD_SET_PARAMS, 0xc0207508},
		{"UBLK_U_CMD_GET_PARAMS", _UBLK_U_CMD_GET_PARAMS, 0x80207509},
		{"UBLK_U_CMD_START_USER_RECOVERY", _UBLK_U_CMD_START_USER_RECOVERY, 0xc0207510},
		{"UBLK_U_CMD_END_USER_RECOVERY", _UBLK_U_CMD_END_USER_RECOVERY, 0xc0207511},
		{"UBLK_U_CMD_GET_FEATURES", _UBLK_U_CMD_GET_FEATURES, 0x80207513},
		{"UBLK_U_CMD_DEL_DEV_ASYNC", _UBLK_U_CMD_DEL_DEV_ASYNC, 0x80207514},
		{"UBLK_U_CMD_UPDATE_SIZE", _UBLK_U_CMD_UPDATE_SIZE, 0xc0207515},
		{"UBLK_U_CMD_QUIESCE_DEV", _UBLK_U_CMD_QUIESCE_DEV, 0xc0207516},
		{"UBLK_U_CMD_TRY_STOP_DEV", _UBLK_U_CMD_TRY_STOP_DEV, 0xc0207517},
		{"UBLK_U_IO_FETCH_REQ", _UBLK_U_IO_FETCH_REQ, 0xc0107520},
		{"UBLK_U_IO_COMMIT_AND_FETCH_REQ", _UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0xc0107521},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
	if got := userCopyPos(3, 5, 7); got != 0x80000000+3<<41+5<<25+7 {
		t.Errorf("user copy position %#x", got)
	}
	if got := (ublk_auto_buf_reg{index: 0x1234, flags: 1}).sqeAddr(); got != 0x11234 {
		t.Errorf("auto buffer registration %#x", got)
	}
}

func TestFeatureList(t *testing.T) {
	for i, f := range features {
		if f.Bit != i || !strings.HasPrefix(f.Name, "UBLK_F_") || f.Without == "" || f.Used && f.Without == notUsed {
			t.Errorf("feature %d: %+v", i, f)
		}
	}
}

func TestChooseMode(t *testing.T) {
	const zc, uc = _UBLK_F_AUTO_BUF_REG, _UBLK_F_USER_COPY
	for _, c := range []struct {
		want    CopyMode
		have    uint64
		mode    transferMode
		missing string
	}{
		{CopyAuto, zc | uc, zeroCopy, ""},
		{CopyAuto, zc, zeroCopy, ""},
		{CopyAuto, uc, userCopy, ""},
		{CopyAuto, 0, plainCopy, ""},
		{CopyZero, zc, zeroCopy, ""},
		{CopyZero, uc, 0, "UBLK_F_AUTO_BUF_REG"},
		{CopyUser, zc | uc, userCopy, ""},
		{CopyUser, zc, 0, "UBLK_F_USER_COPY"},
		{CopyPlain, zc | uc, plainCopy, ""},
	} {
		mode, err := chooseMode(c.want, c.have)
		if c.missing == "" {
			if err != nil || mode != c.mode {
				t.Errorf("%s with %#x: %v, %v", c.want, c.have, mode, err)
			}
			continue
		}
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.missing) {
			t.Errorf("%s with %#x: %v, want an error that names %s", c.want, c.have, err, c.missing)
		}
	}
	if _, err := ParseCopyMode("fast"); !errors.Is(err, ErrInvalid) {
		t.Errorf("copy mode fast: %v", err)
	}
}

func TestWantFlags(t *testing.T) {
	all := uint64(1)<<21 - 1
	flags, err := wantFlags(all, &target.Limits{}, &Options{CopyMode: CopyAuto})
	if err != nil || flags != _UBLK_F_USER_RECOVERY|_UBLK_F_USER_RECOVERY_REISSUE|_UBLK_F_CMD_IOCTL_ENCODE|
		_UBLK_F_QUIESCE|_UBLK_F_UPDATE_SIZE|_UBLK_F_NO_AUTO_PART_SCAN|_UBLK_F_AUTO_BUF_REG|_UBLK_F_USER_COPY {
		t.Errorf("flags %#x, %v", flags, err)
	}
	flags, err = wantFlags(_UBLK_F_USER_RECOVERY|_UBLK_F_USER_RECOVERY_REISSUE, &target.Limits{}, &Options{CopyMode: CopyPlain})
	if err != nil || flags != _UBLK_F_USER_RECOVERY|_UBLK_F_USER_RECOVERY_REISSUE|_UBLK_F_CMD_IOCTL_ENCODE {
		t.Errorf("flags of an old kernel %#x, %v", flags, err)
	}
	z := target.Limits{Zones: target.Zones{Size: 1 << 20}}
	flags, err = wantFlags(all, &z, &Options{CopyMode: CopyAuto})
	if err != nil || flags&_UBLK_F_ZONED == 0 || flags&_UBLK_F_USER_COPY == 0 {
		t.Errorf("flags of a zoned device %#x, %v", flags, err)
	}
	if _, err = wantFlags(all, &z, &Options{CopyMode: CopyPlain}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a zoned device in plain copy: %v", err)
	}
	for _, lost := range []uint64{_UBLK_F_ZONED, _UBLK_F_USER_COPY} {
		if _, err = wantFlags(all&^lost, &z, &Options{CopyMode: CopyAuto}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("a zoned device without %#x: %v", lost, err)
		}
	}
	if err := missing(all, all&^_UBLK_F_USER_RECOVERY); err == nil || !strings.Contains(err.Error(), "UBLK_F_USER_RECOVERY") {
		t.Errorf("a dropped flag: %v", err)
	}
	if err := missing(1, all); err != nil {
		t.Errorf("no dropped flag: %v", err)
	}
}

func TestLimits(t *testing.T) {
	for _, l := range []target.Limits{
		{Size: 0},
		{Size: -512},
		{Size: 513},
		{Size: 512, BlockSize: 4096},
		{Size: 4096, BlockSize: 1024},
		{Size: 4096, DMAAlign: 3},
		{Size: 4096, DMAAlign: 8192},
		{Size: 3 << 20, Zones: target.Zones{Size: 3 << 20}},
		{Size: 3 << 20, Zones: target.Zones{Size: 2 << 20}},
		{Size: 4 << 20, Zones: target.Zones{Size: 2 << 20}, Discard: true},
	} {
		l.EnsureDefaults()
		if err := l.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", l, err)
		}
	}
	l := target.Limits{Size: 1 << 30, BlockSize: 4096, Discard: true, Zeroes: true, Cache: true, DMAAlign: 512}
	p := params(&l, 1<<20)
	if p.basic.logical_bs_shift != 12 || p.basic.max_sectors != 2048 || p.basic.dev_sectors != 1<<21 ||
		p.basic.attrs != _UBLK_ATTR_VOLATILE_CACHE|_UBLK_ATTR_FUA || p.dma.alignment != 511 ||
		p.types != _UBLK_PARAM_TYPE_BASIC|_UBLK_PARAM_TYPE_DISCARD|_UBLK_PARAM_TYPE_DMA_ALIGN || p.discard.max_discard_segments != 1 {
		t.Errorf("params %+v", p)
	}
	if err := match(&l, &p, false); err != nil {
		t.Errorf("its own params: %v", err)
	}
	l.ReadOnly = true
	if p := params(&l, 1<<20); p.types&_UBLK_PARAM_TYPE_DISCARD != 0 || p.basic.attrs&_UBLK_ATTR_READ_ONLY == 0 {
		t.Errorf("read-only params %+v", p)
	}
	if err := match(&l, &p, true); !errors.Is(err, ErrMismatch) {
		t.Errorf("a writable device for a read-only target: %v", err)
	}
	l.ReadOnly, l.Size = false, 2<<30
	if err := match(&l, &p, false); !errors.Is(err, ErrMismatch) {
		t.Errorf("another size: %v", err)
	}
	if err := match(&l, &p, true); err != nil {
		t.Errorf("a target that has grown: %v", err)
	}
	if l.Size = 1 << 29; !errors.Is(match(&l, &p, true), ErrMismatch) {
		t.Error("a target that is smaller than its device is taken for one that has grown")
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{ID: -2},
		{Queues: -1},
		{Queues: MaxQueues + 1},
		{Depth: MaxDepth + 1},
		{MaxIO: 4095},
		{MaxIO: 8 << 20},
		{CopyMode: "x"},
		{Workers: -1},
	} {
		o.EnsureDefaults()
		if err := o.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", o, err)
		}
	}
	o := Options{ID: -1}
	o.EnsureDefaults()
	if err := o.Validate(); err != nil || o.Logger == nil || o.Depth != DefaultDepth {
		t.Errorf("defaults %+v: %v", o, err)
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{fmt.Errorf("a: %w", &queue.StatusError{Errno: unix.ENOSPC, Err: io.EOF}), unix.ENOSPC},
		{unix.EDQUOT, unix.ENOSPC},
		{&queue.StatusError{Errno: unix.EIO, Err: unix.ENOMEM}, unix.EIO},
		{unix.EROFS, unix.EROFS},
		{unix.EOPNOTSUPP, unix.EOPNOTSUPP},
		{unix.ENOMEM, unix.ENOMEM},
		{unix.EAGAIN, unix.EIO},
		{unix.EINVAL, unix.EIO},
		{io.ErrUnexpectedEOF, unix.EIO},
		{queue.ErrPanic, unix.EIO},
	} {
		if got := errnoOf(c.err); got != -int32(c.want) {
			t.Errorf("%v: %d, want %d", c.err, got, -int32(c.want))
		}
	}
}

func TestOpErrors(t *testing.T) {
	for _, c := range []struct {
		errno unix.Errno
		want  error
	}{
		{unix.ENODEV, ErrNoDevice},
		{unix.EPERM, ErrPermission},
		{unix.EBUSY, ErrBusy},
		{unix.EEXIST, ErrExists},
		{unix.EOPNOTSUPP, ErrUnsupported},
		{unix.EINVAL, unix.EINVAL},
	} {
		err := opError("ADD_DEV", 3, c.errno)
		var op *OpError
		if !errors.Is(err, c.want) || !errors.Is(err, c.errno) || !errors.As(err, &op) || op.ID != 3 {
			t.Errorf("%v: %v", c.errno, err)
		}
	}
}

// What the kernel has not is not used, and what varve does not want is not used either.
func TestFeaturesOfDriver(t *testing.T) {
	for _, f := range featuresOf(0) {
		if f.Supported || f.Used {
			t.Errorf("without a driver %+v", f)
		}
	}
	for i, f := range featuresOf(^uint64(0)) {
		if !f.Supported || f.Used != features[i].Used {
			t.Errorf("with all of it %+v", f)
		}
	}
	if list := featuresOf(_UBLK_F_QUIESCE); list[12].Name != "UBLK_F_QUIESCE" || !list[12].Used || list[3].Used {
		t.Errorf("with UBLK_F_QUIESCE %+v and %+v", list[12], list[3])
	}
}

// A device is served further with the zones that it has, and no others.
func TestMatchZones(t *testing.T) {
	l := target.Limits{Size: 64 << 20, Zones: target.Zones{Size: 1 << 20, MaxOpen: 4, MaxActive: 6}}
	l.EnsureDefaults()
	p := params(&l, 512<<10)
	if p.basic.chunk_sectors != 2048 || p.zoned.max_zone_append_sectors != 1024 {
		t.Errorf("parameters %+v", p)
	}
	if err := match(&l, &p, false); err != nil {
		t.Error(err)
	}
	for _, z := range []target.Zones{{}, {Size: 2 << 20, MaxOpen: 4, MaxActive: 6}, {Size: 1 << 20, MaxOpen: 4}} {
		other := l
		other.Zones = z
		if err := match(&other, &p, false); !errors.Is(err, ErrMismatch) {
			t.Errorf("zones %+v: %v", z, err)
		}
	}
}

// The driver gets all zones into one report, or there is no device.
func TestCheckReport(t *testing.T) {
	for _, c := range []struct {
		zones int64
		maxIO int
		ok    bool
	}{{1, 4096, true}, {64, 4096, true}, {65, 4096, false}, {16384, 1 << 20, true}, {16385, 1 << 20, false}, {0, 4096, true}} {
		l := target.Limits{Size: max(c.zones, 1) << 20}
		if c.zones > 0 {
			l.Zones.Size = 1 << 20
		}
		if err := checkReport(&l, c.maxIO); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%d zones, requests of %d bytes: %v", c.zones, c.maxIO, err)
		}
	}
}
