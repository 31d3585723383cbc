package holders

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// look is one look around.
type look struct {
	root  string // where /proc and /sys are; empty but in tests
	self  int    // the process that does not count
	told  map[string]bool
	found chan string                    // holders, in words; more than this holds are not named, so that a look waits for nobody
	nodes map[string]string              // block devices of interest: "259:0" -> "/dev/ublkb0"
	rdev  func(path string) (dev string) // the number of the block device that a file is, "" of none
}

func newLook(root string) *look {
	return &look{root: root, self: os.Getpid(), told: map[string]bool{}, found: make(chan string, 4096), nodes: map[string]string{}, rdev: blockNumber}
}

func (l *look) device(node string) {
	if at, err := filepath.EvalSymlinks(l.root + node); err == nil {
		node = strings.TrimPrefix(at, l.root)
	}
	l.stack(filepath.Base(node), "")
	l.swaps()
	for _, ns := range l.namespaces() {
		for _, m := range ns.mounts {
			if dev := l.deviceOf(m); dev != "" {
				l.tell("%s%s", l.what(dev, node, "mounted at ")+m.Mountpoint, ns.where())
			}
		}
	}
	l.processes(l.hasDevice)
}

// stack walks from a block device to its partitions and to the devices above it, and tells of those.
func (l *look) stack(name, below string) {
	dir := l.root + "/sys/class/block/" + name
	number := l.attribute(dir + "/dev")
	if number == "" || l.nodes[number] != "" {
		return
	}
	node := "/dev/" + strings.ReplaceAll(name, "!", "/")
	l.nodes[number] = node
	if below != "" {
		if nick := l.attribute(dir + "/dm/name"); nick != "" {
			node += " (" + nick + ")"
		}
		l.tell("%s on top of %s", node, below)
	}
	entries, err := os.ReadDir(dir + "/") // with a slash: the name is a link
	if err != nil {
		return
	}
	for _, e := range entries {
		if _, err := os.Stat(dir + "/" + e.Name() + "/partition"); err == nil {
			l.stack(e.Name(), "")
		}
	}
	above, err := os.ReadDir(dir + "/holders")
	if err == nil {
		for _, e := range above {
			l.stack(e.Name(), "/dev/"+name)
		}
	}
	loops, err := filepath.Glob(l.root + "/sys/block/loop*/loop/backing_file")
	if err != nil {
		return
	}
	for _, file := range loops {
		if l.attribute(file) == "/dev/"+name {
			l.stack(filepath.Base(filepath.Dir(filepath.Dir(file))), "/dev/"+name)
		}
	}
}

// deviceOf is which of our devices a mount is on; "" for none. btrfs has a number of its own, and a source.
func (l *look) deviceOf(m *mountinfo.Info) string {
	if node := l.nodes[strconv.Itoa(m.Major)+":"+strconv.Itoa(m.Minor)]; node != "" {
		return node
	}
	for _, node := range l.nodes {
		if m.FSType == "btrfs" && m.Source == node {
			return node
		}
	}
	return ""
}

// what speaks of a device by its name, unless it is the one that was asked about.
func (l *look) what(dev, asked, how string) string {
	if dev == asked {
		return how
	}
	return dev + " " + how
}

func (l *look) swaps() {
	f, err := os.Open(l.root + "/proc/swaps")
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		path, _, _ := strings.Cut(sc.Text(), " ")
		for _, node := range l.nodes {
			if path == node {
				l.tell("swap on %s", node)
			}
		}
	}
}

// attribute is the text of a file in sysfs, "" if there is none.
func (l *look) attribute(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}
