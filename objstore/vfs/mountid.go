package vfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountID names the mount under the directory: another mount, another name, within one boot. It is
// unique from Linux 6.8 on (STATX_MNT_ID_UNIQUE); before, the kernel may use a number again.
func (d *Dir) MountID() (string, error) {
	fd, err := d.open()
	if err != nil {
		return "", err
	}
	var st unix.Statx_t
	for _, mask := range []int{unix.STATX_MNT_ID_UNIQUE, unix.STATX_MNT_ID} {
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, mask, &st); err != nil {
			return "", &os.PathError{Op: "statx", Path: d.path, Err: err}
		}
		if st.Mask&uint32(mask) != 0 {
			return fmt.Sprintf("%x:%d:%d:%d", mask, st.Dev_major, st.Dev_minor, st.Mnt_id), nil
		}
	}
	return "none", nil
}
