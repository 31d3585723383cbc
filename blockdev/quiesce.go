package blockdev

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// quiesceLimit bounds how long the driver waits until each queue has an idle tag.
const quiesceLimit = 5 * time.Second

// Quiesce has the device of another process wait for a successor that calls Recover: the driver
// takes the fetches back, which ends its server. Requests wait, those of a device with
// RecoveryFailIO fail. The device is quiesced when Quiesce returns.
func Quiesce(ctx context.Context, id int) error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	info, err := c.devInfo(ctx, id)
	if err != nil {
		return err
	}
	if info.flags&_UBLK_F_QUIESCE == 0 {
		if have, err := c.features(ctx); err != nil || have&_UBLK_F_QUIESCE == 0 {
			return errors.Join(unsupported(_UBLK_F_QUIESCE, "quiescing a device"), err)
		}
		return fmt.Errorf("%w: the device was made without user recovery, which quiescing needs", ErrInvalid)
	}
	if info.state != _UBLK_S_DEV_LIVE {
		return fmt.Errorf("%w: it is %s, and not served", ErrInvalid, stateOf(info.state))
	}
	err = retry(ctx, slowCommand, func() (bool, error) {
		err := c.quiesceDev(ctx, id, quiesceLimit)
		return errors.Is(err, ErrBusy), err
	})
	if err != nil {
		return err
	}
	return retry(ctx, quickCommand, func() (bool, error) {
		info, err := c.devInfo(ctx, id)
		if err == nil && info.state == _UBLK_S_DEV_LIVE {
			return true, fmt.Errorf("%w: its server, pid %d, has not ended", ErrBusy, info.ublksrv_pid)
		}
		return false, err
	})
}
