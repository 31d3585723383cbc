package diskfs

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

var testUUID = uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")

// superblock is the head of a device with a superblock of the kind.
func superblock(kind string) []byte {
	b := make([]byte, probeSize)
	switch kind {
	case "ext4":
		binary.LittleEndian.PutUint16(b[1024+0x38:], 0xef53)
		copy(b[1024+0x68:], testUUID[:])
	case "xfs":
		copy(b, "XFSB")
		copy(b[32:], testUUID[:])
	case "btrfs":
		copy(b[64<<10+0x40:], "_BHRfS_M")
		copy(b[64<<10+0x20:], testUUID[:])
		b[64<<10+0x88] = 1
	case "partitions":
		b[510], b[511] = 0x55, 0xaa
	}
	return b
}

func TestIdentify(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		file := filepath.Join(t.TempDir(), kind)
		if err := os.WriteFile(file, superblock(kind), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Identify(file)
		if want := (FS{Type: kind, UUID: testUUID, Devices: 1}); got != want || err != nil {
			t.Errorf("%s: got %+v, %v, want %+v", kind, got, err, want)
		}
	}
	for kind, word := range map[string]string{"none": "--writable", "partitions": "--partition"} {
		if _, err := identify(superblock(kind)); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want %q", kind, err, word)
		}
	}
	if _, err := identify(superblock("xfs")[:4096]); !errors.Is(err, ErrUnknown) {
		t.Errorf("a device of 4 KiB: %v", err)
	}
}

// A copy of a mounted btrfs is refused where the kernel would take both for one.
func TestMayCopyBtrfs(t *testing.T) {
	sysfs := t.TempDir()
	fsys := FS{Type: "btrfs", UUID: testUUID, Devices: 1}
	mkdir := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(sysfs, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := fsys.mayCopyBtrfs(sysfs); err != nil {
		t.Errorf("its original is not mounted: %v", err)
	}
	mkdir(testUUID.String())
	if err := fsys.mayCopyBtrfs(sysfs); err == nil || !strings.Contains(err.Error(), "temp_fsid") {
		t.Errorf("its original is mounted, on an old kernel: %v", err)
	}
	mkdir("features/temp_fsid")
	if err := fsys.mayCopyBtrfs(sysfs); err != nil {
		t.Errorf("its original is mounted: %v", err)
	}
	fsys.Devices = 2
	if err := fsys.mayCopyBtrfs(sysfs); err == nil || !strings.Contains(err.Error(), "2 devices") {
		t.Errorf("one of two devices: %v", err)
	}
}
