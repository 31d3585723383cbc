package blockdev

import (
	"context"
	"encoding/binary"
)

// Feature is a feature of ublk drivers.
type Feature struct {
	Name      string `json:"name"`            // the kernel's name
	Bit       int    `json:"bit"`             // in the mask of GET_FEATURES
	Since     string `json:"since,omitempty"` // the first Linux version that has it, where known
	Supported bool   `json:"supported"`       // by the running kernel
	Used      bool   `json:"used"`            // by varve, on this kernel
	Without   string `json:"without"`         // what varve does without it
}

const notUsed = "not used"

// features in order of their bits.
var features = [...]Feature{
	{Name: "UBLK_F_SUPPORT_ZERO_COPY", Bit: 0, Since: "6.15", Without: "not used: buffers are registered automatically"},
	{Name: "UBLK_F_URING_CMD_COMP_IN_TASK", Bit: 1, Since: "6.0", Without: notUsed},
	{Name: "UBLK_F_NEED_GET_DATA", Bit: 2, Since: "6.0", Without: notUsed},
	{Name: "UBLK_F_USER_RECOVERY", Bit: 3, Since: "6.1", Used: true, Without: "a device does not outlive its daemon"},
	{Name: "UBLK_F_USER_RECOVERY_REISSUE", Bit: 4, Since: "6.1", Used: true, Without: "requests in flight when the daemon dies fail"},
	{Name: "UBLK_F_UNPRIVILEGED_DEV", Bit: 5, Since: "6.3", Without: "not used: devices need CAP_SYS_ADMIN"},
	{Name: "UBLK_F_CMD_IOCTL_ENCODE", Bit: 6, Since: "6.4", Used: true, Without: "no device: commands are always sent in this encoding"},
	{Name: "UBLK_F_USER_COPY", Bit: 7, Since: "6.5", Used: true, Without: "copy mode user is refused; a request whose pages could not be lent fails"},
	{Name: "UBLK_F_ZONED", Bit: 8, Since: "6.6", Used: true, Without: "zoned devices are refused"},
	{Name: "UBLK_F_USER_RECOVERY_FAIL_IO", Bit: 9, Since: "6.13", Used: true, Without: "recovery fail-io is refused"},
	{Name: "UBLK_F_UPDATE_SIZE", Bit: 10, Since: "6.16", Used: true, Without: "an attached device keeps its size"},
	{Name: "UBLK_F_AUTO_BUF_REG", Bit: 11, Since: "6.16", Used: true, Without: "no zero copy: requests are copied by pread and pwrite (copy mode user)"},
	{Name: "UBLK_F_QUIESCE", Bit: 12, Since: "6.16", Used: true, Without: "a daemon that ends leaves an open device as if it had been killed"},
	{Name: "UBLK_F_PER_IO_DAEMON", Bit: 13, Since: "6.16", Without: "not used: one thread serves one queue"},
	{Name: "UBLK_F_BUF_REG_OFF_DAEMON", Bit: 14, Without: notUsed},
	{Name: "UBLK_F_BATCH_IO", Bit: 15, Without: notUsed},
	{Name: "UBLK_F_INTEGRITY", Bit: 16, Without: notUsed},
	{Name: "UBLK_F_SAFE_STOP_DEV", Bit: 17, Used: true, Without: "open devices are detected by an exclusive open, which misses some openers"},
	{Name: "UBLK_F_NO_AUTO_PART_SCAN", Bit: 18, Used: true, Without: "the kernel reads the partition table of a device by itself, after its start"},
	{Name: "UBLK_F_SHMEM_ZC", Bit: 19, Without: notUsed},
	{Name: "UBLK_F_IO_DESC_SIZE", Bit: 20, Without: notUsed},
}

// Features lists the features of ublk drivers, whether the running kernel's driver has each, and
// what varve does without it. With ErrNoUblk and ErrPermission the list is returned as well, with
// no feature marked as supported or used.
func Features(ctx context.Context) ([]Feature, error) {
	c, err := openControl()
	if err != nil {
		return featuresOf(0), err
	}
	defer c.close()
	mask, err := c.features(ctx)
	return featuresOf(mask), err
}

// featuresOf returns the list for a driver with this mask.
func featuresOf(mask uint64) []Feature {
	list := append([]Feature(nil), features[:]...)
	for i := range list {
		f := &list[i]
		f.Supported = mask&(1<<f.Bit) != 0
		f.Used = f.Used && f.Supported
	}
	return list
}

// unsupported returns the error for a feature, by its flag, that the kernel lacks.
func unsupported(flag uint64, what string) error {
	for i := range features {
		if flag == 1<<features[i].Bit {
			return &UnsupportedError{Feature: features[i].Name, Since: features[i].Since, For: what}
		}
	}
	return ErrUnsupported
}

// features asks the driver for its mask.
func (c *control) features(ctx context.Context) (uint64, error) {
	buf := make([]byte, _UBLK_FEATURES_LEN)
	if err := c.do(ctx, command{name: "GET_FEATURES", op: _UBLK_U_CMD_GET_FEATURES, id: -1, buf: buf}); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(buf), nil
}
