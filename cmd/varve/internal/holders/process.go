package holders

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a directory of /proc.
type process struct{ dir string }

// pids returns all processes but this one, sorted.
func (l *search) pids() []string {
	entries, err := os.ReadDir(l.root + "/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != l.self {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	list := make([]string, len(pids))
	for i, pid := range pids {
		list[i] = strconv.Itoa(pid)
	}
	return list
}

// processes reports the processes for which uses returns true.
func (l *search) processes(uses func(process) bool) {
	for _, pid := range l.pids() {
		if uses(process{l.root + "/proc/" + pid}) {
			l.report("open in %s", l.name(pid))
		}
	}
}

// hasDevice reports whether a process has one of the devices of interest open or mapped.
func (l *search) hasDevice(p process) bool {
	for _, fd := range p.list("fd") {
		link := p.dir + "/fd/" + fd
		// Only paths below /dev are examined: other files may be on a file system that does not
		// answer.
		if path, err := os.Readlink(link); err == nil && strings.HasPrefix(path, "/dev/") && l.nodes[l.rdev(link)] != "" {
			return true
		}
	}
	return p.maps(func(_, path string) bool {
		for _, node := range l.nodes {
			if path == node {
				return true
			}
		}
		return false
	})
}

// blockNumber returns the number of the block device at path, like "259:0"; "" if it is not a block
// device.
func blockNumber(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// uses reports whether a process has a file of a mount open or mapped, or a directory of it as
// working directory or root. With a path like "/volumes/a" only that file counts, or files in that
// directory.
func (p process) uses(f *fuse, path string) bool {
	is := func(at string) bool {
		return path == "" || strings.HasSuffix(at, path) || strings.Contains(at, path+"/")
	}
	for _, fd := range p.list("fdinfo") {
		if !f.ids[p.mountID(fd)] {
			continue
		}
		if at, err := os.Readlink(p.dir + "/fd/" + fd); err == nil && is(at) {
			return true
		}
	}
	if path == "" {
		for _, link := range []string{"cwd", "root"} {
			at, err := os.Readlink(p.dir + "/" + link)
			if err == nil && slices.ContainsFunc(f.dirs, func(dir string) bool { return at == dir || within(dir, at) }) {
				return true
			}
		}
	}
	return p.maps(func(dev, at string) bool { return dev == f.number && is(at) })
}

func (p process) list(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(p.dir, dir))
	if err != nil {
		return nil // the process is gone or another user's
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// mountID returns the ID of the mount through which a file was opened.
func (p process) mountID(fd string) string {
	b, err := os.ReadFile(p.dir + "/fdinfo/" + fd)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}

// maps reports whether is returns true for a file that a process has mapped, given the file's
// device number in decimal and its path.
func (p process) maps(is func(dev, path string) bool) bool {
	f, err := os.Open(p.dir + "/maps")
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// 7f0c-7f0d rw-s 00000000 00:2f 12  /mnt/volumes/a/live
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 {
			continue
		}
		major, minor, _ := strings.Cut(fields[3], ":")
		a, aerr := strconv.ParseUint(major, 16, 32)
		b, berr := strconv.ParseUint(minor, 16, 32)
		if aerr == nil && berr == nil && is(fmt.Sprintf("%d:%d", a, b), strings.Join(fields[5:], " ")) {
			return true
		}
	}
	return false
}
