// Package holders finds what keeps a block device or a mount busy, so that an error can name it.
//
//	/dev/ublkb0               the device and its partitions                  /sys/class/block/ublkb0
//	  dm-0, md1, bcache0        devices above it, and above those              …/holders
//	  loop3                     loop devices over its node                     /sys/block/loop*/loop/backing_file
//	  mounts                    of every mount namespace that a process is in  /proc/PID/mountinfo
//	  swap                                                                     /proc/swaps
//	  processes                 that have it open or mapped                    /proc/PID/fd, maps
//
//	/mnt, a FUSE mount        its device number and mount IDs, in every namespace
//	  mounts below it, loop devices over its files
//	  processes                 with a file of it open or mapped, or a         /proc/PID/fdinfo, maps, cwd, root
//	                            directory of it as their working directory
//
// No file of the device or mount itself is opened or looked up: its server may be what does not
// answer.
package holders

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// searchTime bounds a search: reading the memory map of a process that is stuck in the kernel may
// block.
const searchTime = 5 * time.Second

// mostNamed is the number of holders that a text names.
const mostNamed = 8

// OfDevice describes the holders of a block device, named by its node like /dev/ublkb0. This
// process does not count.
func OfDevice(node string) string { return inTime(func(l *search) { l.device(node) }) }

// OfMount describes the holders of the FUSE mount at dir. This process does not count.
func OfMount(dir string) string { return inTime(func(l *search) { l.mount(dir) }) }

// OfPath describes the holders of a file in the FUSE mount at dir, or of the files in a directory
// of it; path is below dir. This process does not count.
func OfPath(dir, path string) string { return inTime(func(l *search) { l.path(dir, path) }) }

// inTime runs a search and describes what it has found when it ends, or when searchTime is over.
func inTime(around func(*search)) string {
	l := newSearch("")
	done := make(chan struct{})
	go func() {
		defer close(done)
		around(l)
	}()
	select {
	case <-done:
	case <-time.After(searchTime):
	}
	return text(l.all())
}

// all returns, once, the holders that were found.
func (l *search) all() []string {
	var list []string
	for {
		select {
		case s := <-l.found:
			list = append(list, s)
		default:
			return list
		}
	}
}

// text formats the holders, mostNamed of them by name.
func text(list []string) string {
	if len(list) == 0 {
		none := "no holder found: it is already gone, or in the kernel"
		if os.Geteuid() != 0 {
			none = "no holder found; only root sees those of other users"
		}
		return none
	}
	more := ""
	if n := len(list) - mostNamed; n > 0 {
		list, more = list[:mostNamed], fmt.Sprintf(", and %d more", n)
	}
	return strings.Join(list, ", ") + more
}

// report adds a holder, once.
func (l *search) report(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if l.reported[s] {
		return
	}
	l.reported[s] = true
	select {
	case l.found <- s:
	default: // far more than mostNamed
	}
}
