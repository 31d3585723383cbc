package holders

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// machine is a made-up /proc and /sys.
type machine struct {
	t    *testing.T
	root string
}

func (m machine) file(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.root+path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.root+path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) link(path, target string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.root+path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, m.root+path); err != nil {
		m.t.Fatal(err)
	}
}

// process is one with open files: "3" to "/dev/ublkb0", of mount 40.
func (m machine) process(pid, comm, ns string, fds map[string]string, mount string) {
	m.file("/proc/"+pid+"/comm", comm+"\n")
	m.link("/proc/"+pid+"/ns/mnt", ns)
	for fd, path := range fds {
		m.link("/proc/"+pid+"/fd/"+fd, path)
		m.file("/proc/"+pid+"/fdinfo/"+fd, "pos:\t0\nflags:\t02\nmnt_id:\t"+mount+"\n")
	}
}

// look is one at this machine, whose device nodes have the numbers that sysfs says.
func (m machine) look(around func(*search)) []string {
	l := newSearch(m.root)
	l.self = 77
	l.rdev = func(link string) string {
		path, err := os.Readlink(link)
		if err != nil {
			return ""
		}
		return l.attribute(m.root + "/sys/class/block/" + filepath.Base(path) + "/dev")
	}
	around(l)
	return l.all()
}

func newMachine(t *testing.T) machine {
	m := machine{t, t.TempDir()}
	m.file("/sys/class/block/ublkb0/dev", "259:0\n")
	m.file("/sys/class/block/ublkb0/ublkb0p1/partition", "1\n")
	m.file("/sys/class/block/ublkb0p1/dev", "259:1\n")
	m.file("/sys/class/block/ublkb0p1/holders/dm-3/dev", "253:3\n")
	m.file("/sys/class/block/dm-3/dev", "253:3\n")
	m.file("/sys/class/block/dm-3/dm/name", "vg-root\n")
	m.file("/sys/class/block/loop4/dev", "7:4\n")
	m.file("/sys/block/loop4/loop/backing_file", "/dev/dm-3\n")
	m.file("/sys/block/loop5/loop/backing_file", "/mnt/varve/snapshots/a/s/disk.img\n")
	m.file("/sys/class/block/ublkb1/dev", "259:9\n")
	m.file("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/ublkb0p1 partition 1048572 0 -2\n/dev/sda2 partition 1 0 -3\n")
	mounts := `20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 259:0 / /srv/a\040b rw - ext4 /dev/ublkb0 rw
31 20 0:50 / /bt rw - btrfs /dev/ublkb0 rw
32 20 7:4 / /deep rw - ext4 /dev/loop4 rw
40 20 0:47 / /mnt/varve rw - fuse.varve varve rw
41 40 8:1 /x /mnt/varve/volumes rw - ext4 /dev/sda1 rw
42 20 0:48 / /mnt/varve2 rw - fuse.varve varve rw
`
	m.file("/proc/self/mountinfo", mounts)
	m.link("/proc/self/ns/mnt", "mnt:[1]")
	m.process("77", "varve", "mnt:[1]", map[string]string{"3": "/dev/ublkb0", "4": "/mnt/varve/volumes/a/live"}, "40")
	m.process("100", "fio", "mnt:[1]", map[string]string{"3": "/dev/ublkb0"}, "25")
	m.process("101", "cat", "mnt:[1]", map[string]string{"5": "/mnt/varve/volumes/a/live"}, "40")
	m.process("102", "innocent", "mnt:[1]", map[string]string{"3": "/dev/ublkb1", "4": "/mnt/varve2/volumes/a/live"}, "42")
	m.process("103", "sh", "mnt:[1]", nil, "")
	m.link("/proc/103/cwd", "/mnt/varve/snapshots")
	m.process("104", "box", "mnt:[2]", map[string]string{"3": "/elsewhere/volumes/b/live"}, "91")
	m.file("/proc/104/mountinfo", strings.ReplaceAll(mounts, "/srv/a\\040b", "/inside")+"91 20 0:47 / /elsewhere rw - fuse.varve varve rw\n")
	m.process("105", "mapper", "mnt:[1]", nil, "")
	m.file("/proc/105/maps", "7f00-7f01 rw-s 00000000 00:2f 12   /mnt/varve/volumes/b/live\n7f02-7f03 rw-s 00000000 00:05 9  /dev/ublkb0p1\n")
	return m
}

func want(t *testing.T, what string, got, list []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(list)
	if !slices.Equal(got, list) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(list, "\n"))
	}
}

func TestOfDevice(t *testing.T) {
	m := newMachine(t)
	want(t, "ublkb0", m.look(func(l *search) { l.device("/dev/ublkb0") }), []string{
		"/dev/dm-3 (vg-root) on top of /dev/ublkb0p1",
		"/dev/loop4 on top of /dev/dm-3",
		"mounted at /srv/a b",
		"mounted at /bt",
		"/dev/loop4 mounted at /deep",
		"mounted at /inside in the mount namespace of process 104 (box)",
		"mounted at /bt in the mount namespace of process 104 (box)",
		"/dev/loop4 mounted at /deep in the mount namespace of process 104 (box)",
		"swap on /dev/ublkb0p1",
		"open in process 100 (fio)",
		"open in process 105 (mapper)",
	})
	want(t, "ublkb1", m.look(func(l *search) { l.device("/dev/ublkb1") }), []string{"open in process 102 (innocent)"})
	want(t, "a device that is gone", m.look(func(l *search) { l.device("/dev/ublkb7") }), nil)
}

func TestOfMount(t *testing.T) {
	m := newMachine(t)
	want(t, "the mount", m.look(func(l *search) { l.mount("/mnt/varve") }), []string{
		"mount at /mnt/varve/volumes",
		"mounted at /mnt/varve in the mount namespace of process 104 (box)",
		"mounted at /elsewhere in the mount namespace of process 104 (box)",
		"/dev/loop5 over /mnt/varve/snapshots/a/s/disk.img",
		"open in process 101 (cat)",
		"open in process 103 (sh)",
		"open in process 104 (box)",
		"open in process 105 (mapper)",
	})
	for path, list := range map[string][]string{
		"volumes/a":   {"open in process 101 (cat)"},
		"volumes/b":   {"open in process 104 (box)", "open in process 105 (mapper)"},
		"volumes":     {"open in process 101 (cat)", "open in process 104 (box)", "open in process 105 (mapper)"},
		"snapshots/a": {"/dev/loop5 over /mnt/varve/snapshots/a/s/disk.img"},
		"volumes/c":   nil,
	} {
		want(t, path, m.look(func(l *search) { l.path("/mnt/varve", "/mnt/varve/"+path) }), list)
	}
	want(t, "no mount", m.look(func(l *search) { l.mount("/srv") }), nil)
}

func TestText(t *testing.T) {
	if got := text([]string{"a", "b"}); got != "a, b" {
		t.Error(got)
	}
	if got := text(nil); !strings.Contains(got, "no holder found") {
		t.Error(got)
	}
	many := make([]string, mostNamed+3)
	if got := text(many); !strings.HasSuffix(got, ", and 3 more") {
		t.Error(got)
	}
}

// A look that gets stuck gives what it has found.
func TestLookIsBounded(t *testing.T) {
	l := newSearch(t.TempDir())
	for range 2 * cap(l.found) {
		l.report("%s", strings.Repeat("x", len(l.reported)+1)) // nobody reads: it must not wait
	}
	if got := l.all(); len(got) != cap(l.found) {
		t.Errorf("%d holders of %d are left", len(got), cap(l.found))
	}
}
