package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// start starts the kernel on a processor. The command's output comes by serial lines, the kernel's
// own by the console.
func (m *vm) start(cpu int) (*streams, error) {
	// What the machine starts dumps no core.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, fmt.Errorf("limit core dumps: %w", err)
	}
	console, err := os.Create(m.file("console"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	args := []string{
		"-c", strconv.Itoa(cpu), m.kernel, "mem=" + m.mem, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
		"init=" + m.init, "con=null", "con0=null,fd:1", "ssl=null", "ssl0=null,fd:3", "ssl1=null,fd:4", "seccomp=on", "loglevel=5",
	}
	for i, d := range m.disks {
		args = append(args, fmt.Sprintf("ubd%c=%s", 'a'+i, d))
	}
	m.cmd = exec.Command("taskset", append(args, "VARVE_RUN="+m.dir, "VARVE_TMP="+m.tmp)...)
	m.cmd.Stdout, m.cmd.Stderr = console, console
	// Its session holds every process of the machine. They die with this program, however it ends.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	s := &streams{done: make(chan struct{}, 2)}
	var writers []*os.File
	defer func() {
		for _, w := range writers {
			_ = w.Close()
		}
	}()
	for _, to := range []io.Writer{m.out, m.err} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		writers = append(writers, w)
		s.readers = append(s.readers, r)
		m.cmd.ExtraFiles = append(m.cmd.ExtraFiles, w) // 3 and 4
		go func() {
			_, _ = io.Copy(to, r)
			s.done <- struct{}{}
		}()
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the test kernel: %w", err)
	}
	return s, nil
}

// kill ends every process of the machine. The kernel passes the death of its main process on to the
// guest's, but may be past doing so.
func (m *vm) kill() {
	if m.cmd == nil || m.cmd.Process == nil {
		return
	}
	pid := m.cmd.Process.Pid
	_ = unix.Kill(-pid, unix.SIGKILL)
	for _, p := range sessionOf(pid) {
		_ = unix.Kill(p, unix.SIGKILL)
	}
}

// sessionOf lists the processes of a session.
func sessionOf(session int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid pgrp session …; the name may hold anything.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) < 4 || fields[3] != strconv.Itoa(session) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

var (
	failureLine = regexp.MustCompile(`Kernel panic|Oops|BUG: |kernel BUG at|general protection|Kernel mode (fault|signal)|segfault at .* in kernel|unable to handle`)
	warningLine = regexp.MustCompile(`WARNING: `)
)

// kernelFailure is the part of the console about the first sign that the kernel failed; empty if it
// did not.
func kernelFailure(console []byte) string { return around(console, failureLine, 5, 60, 1, 1000) }

// kernelWarnings are the parts about warnings.
func kernelWarnings(console []byte) string { return around(console, warningLine, 0, 30, -1, 80) }

// around returns lines that match, with some before and after them; of matches and lines as many as
// are allowed, where -1 allows all.
func around(text []byte, re *regexp.Regexp, before, after, matches, lines int) string {
	all := strings.SplitAfter(string(text), "\n")
	var b strings.Builder
	from, until, n := 0, 0, 0 // until: the first line that is not to be shown yet
	for i, l := range all {
		if (matches < 0 || n < matches) && re.MatchString(l) {
			n++
			from, until = max(until, i-before), min(len(all), i+after+1)
			for k := from; k < i && lines > 0; k++ {
				b.WriteString(all[k])
				lines--
			}
		}
		if i < until && lines > 0 {
			b.WriteString(l)
			lines--
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// lastLines are the last n lines of text.
func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
