package holders

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// search is one search for holders.
type search struct {
	root     string // prefix of /proc and /sys; empty except in tests
	self     int    // the process that does not count
	reported map[string]bool
	found    chan string                    // descriptions of holders; report drops what does not fit, so it never blocks
	nodes    map[string]string              // the device, its partitions and devices above: "259:0" -> "/dev/ublkb0"
	rdev     func(path string) (dev string) // the device number of a block device node, "" for other files
}

func newSearch(root string) *search {
	return &search{
		root: root, self: os.Getpid(), reported: map[string]bool{}, found: make(chan string, 4096),
		nodes: map[string]string{}, rdev: blockNumber,
	}
}

func (l *search) device(node string) {
	if at, err := filepath.EvalSymlinks(l.root + node); err == nil {
		node = strings.TrimPrefix(at, l.root)
	}
	l.stack(filepath.Base(node), "")
	l.swaps()
	for _, ns := range l.namespaces() {
		for _, m := range ns.mounts {
			if dev := l.deviceOf(m); dev != "" {
				l.report("%s%s", l.what(dev, node, "mounted at ")+m.Mountpoint, ns.where())
			}
		}
	}
	l.processes(l.hasDevice)
}

// stack walks from a block device to its partitions and to the devices above it, and reports the
// latter.
func (l *search) stack(name, below string) {
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
		l.report("%s on top of %s", node, below)
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

// deviceOf returns the device of interest that a mount is on, or "". A btrfs mount has its own
// device number, and is recognized by its source.
func (l *search) deviceOf(m *mountinfo.Info) string {
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

// what prefixes how with the device's name, unless it is the device that was asked about.
func (l *search) what(dev, asked, how string) string {
	if dev == asked {
		return how
	}
	return dev + " " + how
}

func (l *search) swaps() {
	f, err := os.Open(l.root + "/proc/swaps")
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		path, _, _ := strings.Cut(sc.Text(), " ")
		for _, node := range l.nodes {
			if path == node {
				l.report("swap on %s", node)
			}
		}
	}
}

// attribute returns the text of a file in sysfs or procfs, "" if there is none.
func (l *search) attribute(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}
