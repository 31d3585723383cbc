package blockstack

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// machine is a made-up /proc, /sys and /dev.
type machine struct {
	t    *testing.T
	root string
}

func (m machine) file(path, content string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) link(path, to string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(m.root, to), path); err != nil {
		m.t.Fatal(err)
	}
}

// disk is a block device and its slaves.
func (m machine) disk(name, number string, slaves ...string) {
	dir := "/sys/devices/virtual/block/" + name
	m.file(dir+"/size", "1\n")
	m.link("/sys/dev/block/"+number, dir)
	m.link("/sys/class/block/"+name, dir)
	m.file("/dev/"+name, "")
	for _, s := range slaves {
		m.link(dir+"/slaves/"+s, "/sys/devices/virtual/block/"+s)
	}
}

func TestBelow(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.disk("sda", "8:0")
	m.file("/sys/devices/virtual/block/sda/sda1/partition", "1\n")
	m.link("/sys/dev/block/8:1", "/sys/devices/virtual/block/sda/sda1")
	m.link("/sys/class/block/sda1", "/sys/devices/virtual/block/sda/sda1")
	m.file("/dev/sda1", "")
	m.disk("ublkb0", "259:0")
	m.disk("ublkb1", "259:1")
	m.disk("dm-0", "253:0", "sda", "ublkb0")
	m.disk("dm-1", "253:1", "dm-0")
	m.disk("loop0", "7:0")
	m.file("/sys/devices/virtual/block/loop0/loop/backing_file", "/lv/my image (deleted)\n")
	m.disk("loop1", "7:1")
	m.file("/sys/devices/virtual/block/loop1/loop/backing_file", "/run/varve/x/volumes/v/live\n")
	m.file("/sys/fs/btrfs/1234/devices/sda1", "")
	m.file("/sys/fs/btrfs/1234/devices/ublkb1", "")
	m.file("/proc/self/mountinfo", `20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:30 / /tmp rw - tmpfs tmpfs rw
22 20 253:1 / /lv rw shared:1 - xfs /dev/mapper/vg-lv rw
23 20 7:0 / /img rw - ext4 /dev/loop0 rw
24 20 7:1 / /fused rw - ext4 /dev/loop1 rw
25 20 0:40 / /run/varve/x rw - fuse.varve varve rw
26 20 0:41 /sub /bt\040rfs rw - btrfs /dev/sda1 rw,subvol=/sub
27 20 0:42 / /merged rw - overlay overlay rw,lowerdir=/tmp/a:/lv/b,upperdir=/tmp/c,workdir=/tmp/d
28 20 0:43 / /lv/hidden rw - tmpfs tmpfs rw
29 20 0:44 / /net rw - nfs4 host:/export rw
`)
	for path, want := range map[string][]string{
		"/":              {"/dev/sda1", "/dev/sda, below /dev/sda1"},
		"/srv/store":     {"/dev/sda1", "/dev/sda, below /dev/sda1"},
		"/tmp/store":     nil,
		"/tmpfoo":        {"/dev/sda1", "/dev/sda, below /dev/sda1"},
		"/lv/hidden/one": nil,
		"/net/store":     nil,
		"/lv/store": {
			"/dev/dm-1", "/dev/dm-0, below /dev/dm-1", "/dev/sda, below /dev/dm-0, below /dev/dm-1",
			"/dev/ublkb0, below /dev/dm-0, below /dev/dm-1",
		},
		"/img/store": {
			"/dev/loop0", "/dev/dm-1, below /dev/loop0", "/dev/dm-0, below /dev/dm-1, below /dev/loop0",
			"/dev/sda, below /dev/dm-0, below /dev/dm-1, below /dev/loop0",
			"/dev/ublkb0, below /dev/dm-0, below /dev/dm-1, below /dev/loop0",
		},
		"/fused/store":  {"/dev/loop1", "/run/varve/x, below /dev/loop1"},
		"/bt rfs/store": {"/dev/sda1", "/dev/sda, below /dev/sda1", "/dev/ublkb1"},
		"/merged/store": {
			"/dev/dm-1", "/dev/dm-0, below /dev/dm-1", "/dev/sda, below /dev/dm-0, below /dev/dm-1",
			"/dev/ublkb0, below /dev/dm-0, below /dev/dm-1",
		},
	} {
		layers, err := below(m.root, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		var got []string
		for _, l := range layers {
			got = append(got, l.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s lies on %q, want %q", path, got, want)
		}
	}
}

// A block device is the first of its own layers.
func TestBelowDevice(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.disk("ublkb0", "259:0")
	m.disk("dm-0", "253:0", "ublkb0")
	m.file("/sys/devices/virtual/block/ublkb0/ublkb0p2/partition", "2\n")
	m.link("/sys/dev/block/259:2", "/sys/devices/virtual/block/ublkb0/ublkb0p2")
	m.file("/proc/self/mountinfo", "")
	for number, want := range map[string][]string{
		"259:0": {"/dev/ublkb0"},
		"259:2": {"/dev/ublkb0p2", "/dev/ublkb0, below /dev/ublkb0p2"},
		"253:0": {"/dev/dm-0", "/dev/ublkb0, below /dev/dm-0"},
		"8:16":  nil, // gone
	} {
		layers, err := belowDevice(m.root, number)
		if err != nil {
			t.Errorf("%s: %v", number, err)
		}
		var got []string
		for _, l := range layers {
			got = append(got, l.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("device %s lies on %q, want %q", number, got, want)
		}
	}
}

// TestBelowCycle: a loop device over a file in its own file system ends the walk.
func TestBelowCycle(t *testing.T) {
	m := machine{t, t.TempDir()}
	m.disk("loop0", "7:0")
	m.file("/sys/devices/virtual/block/loop0/loop/backing_file", "/img/file\n")
	m.file("/proc/self/mountinfo", "20 1 7:0 / /img rw - ext4 /dev/loop0 rw\n")
	layers, err := below(m.root, "/img/store")
	if err != nil || len(layers) != 1 {
		t.Errorf("layers %v, %v; want loop0 alone", layers, err)
	}
}

// TestBelowReal looks at this machine.
func TestBelowReal(t *testing.T) {
	if _, err := Below(t.TempDir()); err != nil {
		t.Error(err)
	}
	if _, err := Below("/no/such/directory"); err == nil {
		t.Error("a directory that is not there lies on something")
	}
}
