package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"varve/fs"
)

// dropStaleMount unmounts a FUSE mount at dir whose server is dead. It leaves every other mount alone.
func dropStaleMount(dir string) (bool, error) {
	kind, err := mountedAt(dir)
	if err != nil || !strings.HasPrefix(kind, "fuse") {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); !errors.Is(err, unix.ENOTCONN) {
		return false, nil // somebody serves it
	}
	if err := fs.RemoveDead(dir); err != nil {
		return false, fmt.Errorf("unmount %s: %w", dir, err)
	}
	return true, nil
}

// mountInUse says whether something below a mount is open, or somebody's working directory.
func mountInUse(dir string) bool {
	// The first call only marks a mount that nobody uses, and the second would unmount it (umount(2), MNT_EXPIRE).
	err := unix.Unmount(dir, unix.MNT_EXPIRE)
	var st unix.Stat_t
	_ = unix.Stat(dir, &st) // a look at it removes the mark
	return errors.Is(err, unix.EBUSY)
}

// mountedAt gives the type of the file system mounted last at dir, "" if none is.
func mountedAt(dir string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	kind := ""
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// ID parent major:minor root MOUNTPOINT options [optional…] - TYPE source options
		head, tail, ok := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(head)
		if !ok || len(fields) < 5 || unescapeMount(fields[4]) != dir {
			continue
		}
		kind, _, _ = strings.Cut(tail, " ")
	}
	return kind, sc.Err()
}

// unescapeMount undoes the kernel's octal escapes of space, tab, newline and backslash.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
