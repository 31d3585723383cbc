// Package need decides which tests below fs are skipped on this machine, and names the missing
// feature.
package need

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// Feature is a prerequisite of a test.
type Feature string

// The features of a kernel or a machine.
const (
	FUSE Feature = "/dev/fuse (kernel: CONFIG_FUSE_FS)"
	// UserFUSE is FUSE for users other than root: udev sets the mode of the node.
	UserFUSE Feature = "/dev/fuse that everybody may open (mode 666)"
	Loop     Feature = "/dev/loop-control (kernel: CONFIG_BLK_DEV_LOOP)"
	Root     Feature = "root"
)

// Program returns the feature "this program is installed".
func Program(name string) Feature { return Feature(name) }

func (f Feature) present() bool {
	switch f {
	case FUSE:
		return opens("/dev/fuse")
	case UserFUSE:
		fi, err := os.Stat("/dev/fuse")
		return err == nil && fi.Mode().Perm()&0o006 == 0o006
	case Loop:
		return opens("/dev/loop-control")
	case Root:
		return os.Geteuid() == 0
	}
	_, err := exec.LookPath(string(f))
	return err == nil
}

func opens(path string) bool {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}

// These skips the test unless every feature is present. With VARVE_REQUIRE_FUSE=1 a missing feature
// fails the test.
func These(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		if f.present() {
			continue
		}
		if os.Getenv("VARVE_REQUIRE_FUSE") == "1" {
			t.Fatalf("needs %s, which VARVE_REQUIRE_FUSE=1 says is there", f)
		}
		t.Skipf("needs %s", f)
	}
}
