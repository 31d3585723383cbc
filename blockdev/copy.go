package blockdev

import "fmt"

// CopyMode is how the bytes of a device's requests move.
type CopyMode string

// Copy modes.
const (
	CopyAuto  CopyMode = "auto"  // the best mode that the kernel supports
	CopyZero  CopyMode = "zero"  // the request's own pages are the buffer of the target's reads and writes
	CopyUser  CopyMode = "user"  // through a buffer of the daemon, by pread and pwrite on the character device
	CopyPlain CopyMode = "plain" // through a buffer of the daemon that the driver copies from and to
)

// ParseCopyMode reads the name of a copy mode; "" is CopyAuto.
func ParseCopyMode(s string) (CopyMode, error) {
	switch m := CopyMode(s); m {
	case "":
		return CopyAuto, nil
	case CopyAuto, CopyZero, CopyUser, CopyPlain:
		return m, nil
	}
	return "", fmt.Errorf("%w: copy mode %q: not auto, zero, user or plain", ErrInvalid, s)
}

// transferMode returns how a device transfers a request's bytes, unless the request forbids it.
type transferMode uint8

const (
	zeroCopy transferMode = iota
	userCopy
	plainCopy
)

var modeNames = [...]CopyMode{zeroCopy: CopyZero, userCopy: CopyUser, plainCopy: CopyPlain}

// chooseMode returns the mode to use with the features that a kernel, or a device, has.
func chooseMode(want CopyMode, have uint64) (transferMode, error) {
	switch want {
	case CopyZero:
		if have&_UBLK_F_AUTO_BUF_REG == 0 {
			return 0, unsupported(_UBLK_F_AUTO_BUF_REG, "copy mode zero")
		}
		return zeroCopy, nil
	case CopyUser:
		if have&_UBLK_F_USER_COPY == 0 {
			return 0, unsupported(_UBLK_F_USER_COPY, "copy mode user")
		}
		return userCopy, nil
	case CopyPlain:
		return plainCopy, nil
	case CopyAuto, "":
		switch {
		case have&_UBLK_F_AUTO_BUF_REG != 0:
			return zeroCopy, nil
		case have&_UBLK_F_USER_COPY != 0:
			return userCopy, nil
		}
		return plainCopy, nil
	}
	return 0, fmt.Errorf("%w: copy mode %q", ErrInvalid, want)
}
