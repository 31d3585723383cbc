package fs

import "testing"

// The kernel's table of mounts, with whatever others have mounted.
func FuzzMountTable(f *testing.F) {
	f.Add("36 35 98:0 / /mnt rw - fuse.varve varve rw\n", "/mnt")
	f.Add("36 35 98:0 / /with\\040space rw shared:1 - fuse.varve varve rw\n", "/with space")
	f.Add("36 35 98:0 / /mnt rw - ext4\n36 35 98:0 / /mnt rw - \n", "/mnt")
	f.Add(" - \n- - -\n\x00", "")
	f.Fuzz(func(_ *testing.T, table, dir string) { topMountType(table, dir) })
}
