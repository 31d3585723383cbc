package blockdev

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"varve/blockdev/target"
)

const resizing = "resizing an attached device"

// Size returns the size of the device in bytes.
func (d *Device) Size() int64 { return d.size.Load() }

// Resize tells the kernel the target's new size in bytes. The caller has made sure that the target
// has that size, and, if it is smaller, that nothing uses the end that is cut off.
func (d *Device) Resize(ctx context.Context, size int64) error {
	if !d.has(_UBLK_F_UPDATE_SIZE) {
		return unsupported(_UBLK_F_UPDATE_SIZE, resizing)
	}
	lim := d.target.Limits()
	lim.EnsureDefaults()
	lim.Size = size
	if err := lim.Validate(); err != nil {
		return err
	}
	old := d.size.Load()
	d.size.Store(max(old, size)) // requests past the old end may come before the command returns
	if err := d.ctl.updateSize(ctx, d.id, size); err != nil {
		d.size.Store(old)
		return err
	}
	d.size.Store(size)
	return nil
}

// Resize tells the kernel a new size in bytes of a device that any process serves. That process
// learns the size with the first request beyond the old one, if it is varve and its target can have
// that size (target.Resizer); otherwise requests beyond what the target has fail.
func Resize(ctx context.Context, id int, size int64) error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	info, err := peek(ctx, c, id)
	if err != nil {
		return err
	}
	if info.Flags&_UBLK_F_UPDATE_SIZE == 0 {
		return unsupported(_UBLK_F_UPDATE_SIZE, resizing)
	}
	if info.State != StateLive {
		return fmt.Errorf("%w: it is %s; only a device that is served can be resized", ErrInvalid, info.State)
	}
	lim := target.Limits{Size: size, BlockSize: info.BlockSize}
	lim.EnsureDefaults()
	if err := lim.Validate(); err != nil {
		return err
	}
	return c.updateSize(ctx, id, size)
}

// learnSize notices a size that another process has given the device, for a request beyond the size
// that this one knows. It reads an attribute that the kernel has in memory, so it does not block.
func (d *Device) learnSize() {
	t, ok := d.target.(target.Resizer)
	if !ok {
		return
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/size", d.id))
	if err != nil {
		return // the request fails, as one beyond the end
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err == nil && sectors<<sectorShift > d.size.Load() && t.Fits(sectors<<sectorShift) == nil {
		d.size.Store(sectors << sectorShift)
	}
}
