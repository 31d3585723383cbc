package holders

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// namespace is a mount namespace, as seen by one of the processes in it.
type namespace struct {
	mounts []*mountinfo.Info
	other  string // that process; empty for this process's own namespace
}

// where names the namespace of a mount, unless it is this process's own.
func (n *namespace) where() string {
	if n.other == "" {
		return ""
	}
	return " in the mount namespace of " + n.other
}

// namespaces reads the mounts of all processes' namespaces, this process's own first.
func (l *search) namespaces() []namespace {
	var list []namespace
	seen := map[string]bool{}
	for _, pid := range append([]string{"self"}, l.pids()...) {
		dir := l.root + "/proc/" + pid
		id, err := os.Readlink(dir + "/ns/mnt")
		if err != nil && pid != "self" || seen[id] {
			continue // the process is gone or another user's
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

// find finds the mount at dir, here and at other directories in other namespaces. With others it
// reports mounts below it, and its mounts in other namespaces.
func (l *search) find(dir string, others bool) (f fuse, ok bool) {
	all := l.namespaces()
	f = fuse{dir: dir, ids: map[string]bool{}}
	if len(all) == 0 || all[0].other != "" {
		return f, false
	}
	for _, m := range all[0].mounts {
		if m.Mountpoint == dir {
			f.number = strconv.Itoa(m.Major) + ":" + strconv.Itoa(m.Minor) // the last mount is on top
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
					l.report("mounted at %s%s", m.Mountpoint, ns.where())
				}
			case ns.other == "" && others && within(dir, m.Mountpoint):
				l.report("mount at %s", m.Mountpoint)
			}
		}
	}
	return f, true
}

func (l *search) mount(dir string) {
	f, ok := l.find(dir, true)
	if !ok {
		return
	}
	l.loops(func(file string) bool { return within(dir, file) })
	l.processes(func(p process) bool { return p.uses(&f, "") })
}

func (l *search) path(dir, path string) {
	f, ok := l.find(dir, false)
	if !ok {
		return
	}
	l.loops(func(file string) bool { return file == path || within(path, file) })
	l.processes(func(p process) bool { return p.uses(&f, strings.TrimPrefix(path, dir)) })
}

// loops reports loop devices over files.
func (l *search) loops(over func(file string) bool) {
	files, err := filepath.Glob(l.root + "/sys/block/loop*/loop/backing_file")
	if err != nil {
		return
	}
	for _, f := range files {
		if file := l.attribute(f); over(file) {
			l.report("%s over %s", "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(f))), file)
		}
	}
}

// within reports whether path is below dir.
func within(dir, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// name describes a process: "process 123 (fio)".
func (l *search) name(pid string) string {
	comm := l.attribute(l.root + "/proc/" + pid + "/comm")
	if comm == "" {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, comm)
}
