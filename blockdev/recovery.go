package blockdev

import "fmt"

// Recovery is what becomes of a device when its server dies.
type Recovery string

// Recoveries.
const (
	// RecoveryReissue: requests wait for a successor, which gets those in flight too.
	RecoveryReissue Recovery = "reissue"
	// RecoveryFailIO: requests fail until a successor has taken the device over.
	RecoveryFailIO Recovery = "fail-io"
	// RecoveryNone: the device is dead, as ublk servers without recovery leave it: requests fail, and
	// only Delete is left to do.
	RecoveryNone Recovery = "none"
)

// ParseRecovery reads the name of a Recovery; "" is RecoveryReissue.
func ParseRecovery(s string) (Recovery, error) {
	switch r := Recovery(s); r {
	case "":
		return RecoveryReissue, nil
	case RecoveryReissue, RecoveryFailIO, RecoveryNone:
		return r, nil
	}
	return "", fmt.Errorf("%w: recovery %q: not reissue, fail-io or none", ErrInvalid, s)
}

// flags are the features that a device with this recovery has, of those that a driver has. Linux
// wants USER_RECOVERY for the others, and at most one of REISSUE and FAIL_IO
// (ublk_ctrl_add_dev, 7.3).
func (r Recovery) flags(have uint64) (uint64, error) {
	switch r {
	case RecoveryNone:
		return 0, nil
	case RecoveryFailIO:
		if have&_UBLK_F_USER_RECOVERY_FAIL_IO == 0 {
			return 0, unsupported(_UBLK_F_USER_RECOVERY_FAIL_IO, "recovery fail-io")
		}
		return _UBLK_F_USER_RECOVERY | _UBLK_F_USER_RECOVERY_FAIL_IO | have&_UBLK_F_QUIESCE, nil
	default:
		return _UBLK_F_USER_RECOVERY | _UBLK_F_USER_RECOVERY_REISSUE | have&_UBLK_F_QUIESCE, nil
	}
}
