package vfs

import (
	"fmt"
	"os"
	"strings"
	"sync"
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
