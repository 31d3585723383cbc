package holders

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// namespace is a mount namespace, as one of the processes in it sees it.
type namespace struct {
	mounts []*mountinfo.Info
	other  string // the process, where it is not our own namespace
}

// where says which namespace a mount is in, if it is not ours.
func (n *namespace) where() string {
	if n.other == "" {
		return ""
	}
	return " in the mount namespace of " + n.other
}

// namespaces reads the mounts of all namespaces that processes are in, our own first.
func (l *look) namespaces() []namespace {
	var list []namespace
	seen := map[string]bool{}
	for _, pid := range append([]string{"self"}, l.pids()...) {
		dir := l.root + "/proc/" + pid
		id, err := os.Readlink(dir + "/ns/mnt")
		if err != nil && pid != "self" || seen[id] {
			continue // gone, or another user's
		}
		mounts, err := readMounts(dir + "/mountinfo")
		if err != nil {
			continue
		}
		seen[id] = true
		ns := namespace{mounts: mounts}
		if pid != "self" {
			ns.other = l.name(pid)
		}
		list = append(list, ns)
	}
	return list
}

func readMounts(path string) ([]*mountinfo.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return mountinfo.GetMountsFromReader(f, nil)
}

// fuse is a FUSE mount in all namespaces.
type fuse struct {
	dir    string
	number string          // of its device, "0:47"
	ids    map[string]bool // mount IDs; they are unique on a machine
	dirs   []string        // where it is mounted
}

// find looks for the mount at dir, here and under other names in other namespaces.
// With others it tells of mounts below it, and of those elsewhere.
func (l *look) find(dir string, others bool) (f fuse, ok bool) {
	all := l.namespaces()
	f = fuse{dir: dir, ids: map[string]bool{}}
	if len(all) == 0 || all[0].other != "" {
		return f, false
	}
	for _, m := range all[0].mounts {
		if m.Mountpoint == dir {
			f.number = strconv.Itoa(m.Major) + ":" + strconv.Itoa(m.Minor) // the last one is on top
		}
	}
	if f.number == "" {
		return f, false
	}
	for _, ns := range all {
		for _, m := range ns.mounts {
			switch {
			case strconv.Itoa(m.Major)+":"+strconv.Itoa(m.Minor) == f.number:
				f.ids[strconv.Itoa(m.ID)] = true
				f.dirs = append(f.dirs, m.Mountpoint)
				if ns.other != "" && others {
					l.tell("mounted at %s%s", m.Mountpoint, ns.where())
				}
			case ns.other == "" && others && within(dir, m.Mountpoint):
				l.tell("mount at %s", m.Mountpoint)
			}
		}
	}
	return f, true
}

func (l *look) mount(dir string) {
	f, ok := l.find(dir, true)
	if !ok {
		return
	}
	l.loops(func(file string) bool { return within(dir, file) })
	l.processes(func(p process) bool { return p.uses(&f, "") })
}

func (l *look) path(dir, path string) {
	f, ok := l.find(dir, false)
	if !ok {
		return
	}
	l.loops(func(file string) bool { return file == path || within(path, file) })
	l.processes(func(p process) bool { return p.uses(&f, strings.TrimPrefix(path, dir)) })
}

// loops tells of loop devices over files.
func (l *look) loops(over func(file string) bool) {
	files, err := filepath.Glob(l.root + "/sys/block/loop*/loop/backing_file")
	if err != nil {
		return
	}
	for _, f := range files {
		if file := l.attribute(f); over(file) {
			l.tell("%s over %s", "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(f))), file)
		}
	}
}

// within says whether path is below dir.
func within(dir, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// name is a process as people know it: "process 123 (fio)".
func (l *look) name(pid string) string {
	comm := l.attribute(l.root + "/proc/" + pid + "/comm")
	if comm == "" {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, comm)
}
