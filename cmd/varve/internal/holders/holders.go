// Package holders finds out who keeps a block device or a mount busy, so that a refusal can name them.
//
//	/dev/ublkb0               its number, and those of its partitions        /sys/class/block/ublkb0
//	  dm-0, md1, bcache0        devices above it, and above those              …/holders
//	  loop3                     loop devices over its node                     /sys/block/loop*/loop/backing_file
//	  mounts                    of every mount namespace that a process is in  /proc/PID/mountinfo
//	  swap                                                                     /proc/swaps
//	  processes                 that have it open or mapped                    /proc/PID/fd, maps
//
//	/mnt, a FUSE mount        its number and mount IDs, in every namespace
//	  mounts below it, loop devices over its files
//	  processes                 with a file of it open or mapped, or a         /proc/PID/fdinfo, maps, cwd, root
//	                            directory of it as their working directory
//
// No file of the device or mount itself is opened or looked at: it may be the one thing that does not answer.
package holders

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// lookTime bounds a look: a process that is stuck in the kernel can keep whoever asks about its memory waiting.
const lookTime = 5 * time.Second

// mostNamed is how many holders a text names.
const mostNamed = 8

// OfDevice names, in words, what uses a block device: its node, like /dev/ublkb0. This process does not count.
func OfDevice(node string) string { return inTime(func(l *look) { l.device(node) }) }

// OfMount names, in words, what uses the FUSE mount at dir. This process does not count.
func OfMount(dir string) string { return inTime(func(l *look) { l.mount(dir) }) }

// OfPath names, in words, what uses a file of the FUSE mount at dir, or files in a directory of it; path is below dir.
func OfPath(dir, path string) string { return inTime(func(l *look) { l.path(dir, path) }) }

// inTime gives what a look has found until it ended or its time was over.
func inTime(around func(*look)) string {
	l := newLook("")
	done := make(chan struct{})
	go func() {
		defer close(done)
		around(l)
	}()
	select {
	case <-done:
	case <-time.After(lookTime):
	}
	return text(l.all())
}

// all empties what was found.
func (l *look) all() []string {
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

// text names as many as a line takes.
func text(list []string) string {
	if len(list) == 0 {
		none := "no holder is found: it is gone already, or in the kernel"
		if os.Geteuid() != 0 {
			none = "no holder is found; root sees those of other users"
		}
		return none
	}
	more := ""
	if n := len(list) - mostNamed; n > 0 {
		list, more = list[:mostNamed], fmt.Sprintf(", and %d more", n)
	}
	return strings.Join(list, ", ") + more
}

// tell notes a holder, once.
func (l *look) tell(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if l.told[s] {
		return
	}
	l.told[s] = true
	select {
	case l.found <- s:
	default: // more than anybody reads
	}
}
