package busfault

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func setHandler() (errno int64)

func installHandler() error {
	if errno := setHandler(); errno != 0 {
		return fmt.Errorf("rt_sigaction(SIGBUS): %w", unix.Errno(errno))
	}
	return nil
}
