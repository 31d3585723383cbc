package vfs

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// BootID tells one boot of the machine from another (proc_sys_kernel(5), random/boot_id). Page
// caches, mounts and numbers of devices mean nothing in another boot.
var BootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
})

// SinceBoot returns how long ago the machine was booted, with the time that it was suspended
// (clock_gettime(2), CLOCK_BOOTTIME). It never goes back, whatever is done to the wall clock.
func SinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime(CLOCK_BOOTTIME): %v", err)) // Linux has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}
