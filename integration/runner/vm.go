package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const vmUsage = `integration/vm/run [--mem SIZE] [--tmp SIZE] [--timeout SECONDS] [--disk FILE]... [--share DIR]... -- CMD...
Runs one command in the test kernel, with this machine's root as its root, and returns its exit status.

CMD is one bash command line, run in the caller's directory with PATH, HOME, GO* and VARVE_* kept, bin of the checkout
first in PATH, and nothing on its standard input. /tmp, /run and /dev/shm are new and empty and die with the machine;
VARVE_VM_DIR is a directory that outlives it until this program ends. SIGUSR1 to this program is a power cut: the machine is killed where it is, status
137. A CMD that can't end, since a process of it waits in the kernel, makes the file stuck in VARVE_VM_DIR: the machine is
killed a second later, status 125. An oops or a panic is a failure, status 125, whatever CMD said; kernel warnings are shown.

VARVE_KERNEL is the kernel; default is the one that integration/kernel/build builds. VARVE_VM_KEEP=1 keeps VARVE_VM_DIR,
VARVE_VM_CONSOLE=FILE the kernel's messages.`

// Exit statuses of integration/vm/run that are not the command's.
const (
	statusUsage     = 1
	statusTimeout   = 124
	statusBroken    = 125 // the kernel failed, or the machine ended without a status
	statusInterrupt = 130
	statusPowerCut  = 137
	statusTerm      = 143
)

// haltLimit is how long a machine has to halt when its command has ended. It syncs its filesystems
// then, for half of that at most, and may be unable to if one of its devices is dead.
const haltLimit = time.Minute

// vmOptions are those of the command line.
type vmOptions struct {
	mem, tmp      string
	timeout       time.Duration
	disks, shares []string
	command       string
}

// vm is one machine.
type vm struct {
	vmOptions
	kernel string
	init   string        // its first process
	dir    string        // VARVE_VM_DIR
	halt   time.Duration // haltLimit
	out    io.Writer     // the command's standard output
	err    io.Writer     // and its standard error, and what this program says

	cmd *exec.Cmd
}

// vmCommand is integration/vm/run.
func vmCommand(args []string) int {
	if os.Getuid() != 0 && !slices.Contains(args, "-h") {
		fmt.Fprintln(os.Stderr, "vm: not root: the test kernel has this machine's root as its root and is root there")
		return statusUsage
	}
	return runVM(args)
}

func runVM(args []string) int {
	o, err := parseVM(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1)
	m := &vm{vmOptions: o, halt: patience(haltLimit), out: os.Stdout, err: os.Stderr}
	if err == nil {
		err = m.prepare()
	}
	defer m.remove()
	status := statusUsage
	if err == nil {
		status, err = m.run(signals)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	return status
}

func parseVM(args []string) (vmOptions, error) {
	o := vmOptions{}
	f := newFlags("integration/vm/run")
	f.StringVar(&o.mem, "mem", "4G", "`size` of the machine's memory, of which only what is used is taken")
	f.StringVar(&o.tmp, "tmp", "", "`size` of the tmpfs on /tmp; default half of --mem")
	seconds := f.Uint("timeout", 600, "`seconds` after which the whole machine is killed, status 124")
	list := func(to *[]string) func(string) error {
		return func(s string) error { *to = append(*to, s); return nil }
	}
	f.Func("disk", "raw image `file` that is /dev/ubda, /dev/ubdb, …", list(&o.disks))
	f.Func("share", "`directory` below /tmp, /run, /var/tmp or /dev/shm of this machine that CMD sees at the same path; the "+
		"checkout, and the directory the caller stands in, always are", list(&o.shares))
	if err := parse(f, vmUsage, args); err != nil {
		return o, err
	}
	o.timeout = time.Duration(*seconds) * time.Second
	o.command = strings.Join(f.Args(), " ")
	switch {
	case o.command == "":
		return o, errors.New("no command after --")
	case len(o.disks) > 8:
		return o, fmt.Errorf("%d disks; a machine has 8 at most", len(o.disks))
	}
	return o, nil
}

// prepare makes the machine's directory, with the command and what it is to share.
func (m *vm) prepare() (err error) {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	vms := filepath.Join(cache, "vm")
	if err := os.MkdirAll(vms, 0o755); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	top := filepath.Join(filepath.Dir(program), "../..") // start builds out/runner/runner
	if m.init == "" {
		m.init = filepath.Join(top, "integration/vm/init")
	}
	if m.kernel, err = findKernel(top); err != nil {
		return err
	}
	for i, d := range m.disks {
		if m.disks[i], err = filepath.Abs(d); err != nil {
			return err
		}
		if err := unix.Access(d, unix.R_OK); err != nil {
			return fmt.Errorf("disk image %s: %w", d, err)
		}
	}
	if m.dir, err = os.MkdirTemp(vms, "run."); err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	checkout := cwd
	if b, err := exec.Command("git", "rev-parse", "--show-toplevel").Output(); err == nil {
		checkout = strings.TrimSpace(string(b))
	}
	if err := os.WriteFile(m.file("shares"), []byte(hidden(append([]string{checkout, cwd}, m.shares...))), 0o644); err != nil {
		return err
	}
	return os.WriteFile(m.file("cmd"), []byte(script(os.Environ(), checkout, m.dir, cache, cwd, m.command)), 0o600)
}

func (m *vm) file(name string) string { return filepath.Join(m.dir, name) }

// findKernel is the kernel's path. It is built if it has not been.
func findKernel(top string) (string, error) {
	kernel := os.Getenv("VARVE_KERNEL")
	if kernel == "" {
		cmd := exec.Command(filepath.Join(top, "integration/kernel/build"))
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("build the test kernel: %w", err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		kernel = lines[len(lines)-1]
	}
	if err := unix.Access(kernel, unix.X_OK); err != nil {
		return "", fmt.Errorf("no kernel at %s: %w", kernel, err)
	}
	return kernel, nil
}

// hidden lists, a line each, those directories that lie below one of the guest's own temporary
// places: they have to be mounted in it.
func hidden(dirs []string) string {
	var lines []string
	for _, d := range dirs {
		for _, temporary := range []string{"/tmp/", "/run/", "/dev/shm/"} {
			if strings.HasPrefix(d, temporary) && len(d) > len(temporary) {
				lines = append(lines, d+"\n")
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// script is what bash runs in the machine. The programs that were built in the checkout are found
// first.
func script(environ []string, checkout, dir, cache, cwd, command string) string {
	var b strings.Builder
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case name == "PATH", name == "HOME", name == "USER", name == "LANG", name == "TERM",
			strings.HasPrefix(name, "GO"), strings.HasPrefix(name, "VARVE_"), strings.HasPrefix(name, "CGO_"):
			fmt.Fprintf(&b, "export %s=%s\n", name, quote(value))
		}
	}
	fmt.Fprintf(&b, "export PATH=%s:$PATH\n", quote(filepath.Join(checkout, "bin")))
	fmt.Fprintf(&b, "export VARVE_VM=1 VARVE_VM_DIR=%s VARVE_CACHE=%s\ncd %s\n%s\n", quote(dir), quote(cache), quote(cwd), command)
	return b.String()
}

// run boots the machine and returns the exit status for what became of it.
func (m *vm) run(signals <-chan os.Signal) (int, error) {
	// One processor for each machine: a test kernel that moves between processors is many times
	// slower.
	cpu, release, err := takeProcessor(filepath.Dir(m.dir))
	if err != nil {
		return statusBroken, err
	}
	defer release()
	streams, err := m.start(cpu)
	if err != nil {
		return statusBroken, err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = m.cmd.Wait() }() // its status says nothing
	why := m.watch(ended, signals)
	m.kill()
	<-ended
	streams.finish(5 * time.Second)
	if to := os.Getenv("VARVE_VM_CONSOLE"); to != "" {
		if b, err := os.ReadFile(m.file("console")); err == nil {
			_ = os.WriteFile(to, b, 0o644)
		}
	}
	return m.verdict(why)
}

// ending is why watch returned.
type ending int

const (
	byItself ending = iota
	haltedLate
	timedOut
	powerCut
	interrupted
	terminated
	saidStuck
)

// watch waits until the machine has ended, or is to be killed.
func (m *vm) watch(ended <-chan struct{}, signals <-chan os.Signal) ending {
	timeout := time.NewTimer(m.timeout)
	defer timeout.Stop()
	poll := time.NewTicker(500 * time.Millisecond)
	defer poll.Stop()
	var done time.Time // when the command had ended
	for {
		select {
		case <-ended:
			return byItself
		case <-timeout.C:
			return timedOut
		case s := <-signals:
			switch s {
			case unix.SIGUSR1:
				return powerCut
			case unix.SIGINT:
				return interrupted
			}
			return terminated
		case <-poll.C:
			if _, err := os.Stat(m.file("stuck")); err == nil {
				time.Sleep(time.Second) // for the rest of what it says
				return saidStuck
			}
			switch _, ok := m.commandStatus(); {
			case !ok:
			case done.IsZero():
				done = time.Now()
			case time.Since(done) > m.halt:
				return haltedLate
			}
		}
	}
}

// commandStatus is the exit status of the command, once it has ended.
func (m *vm) commandStatus() (int, bool) {
	b, err := os.ReadFile(m.file("status"))
	if err != nil || !bytes.HasSuffix(b, []byte("\n")) {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}

// verdict returns the exit status, and prints what a user has to know about the machine's end.
func (m *vm) verdict(why ending) (int, error) {
	console, _ := os.ReadFile(m.file("console"))
	if why == interrupted {
		return statusInterrupt, nil
	}
	if why == terminated {
		return statusTerm, nil
	}
	if report := kernelFailure(console); report != "" {
		return statusBroken, fmt.Errorf("the test kernel failed:\n%s", report)
	}
	if report := kernelWarnings(console); report != "" {
		fmt.Fprintf(m.err, "vm: kernel warning:\n%s\n", report)
	}
	status, ok := m.commandStatus()
	switch {
	case why == powerCut:
		return statusPowerCut, nil
	case why == timedOut:
		return statusTimeout, fmt.Errorf("killed after %.0f s\n%s", m.timeout.Seconds(), lastLines(console, 20))
	case why == saidStuck:
		return statusBroken, errors.New("killed, since the command said that it is stuck")
	case !ok:
		return statusBroken, fmt.Errorf("the machine ended without a status:\n%s", lastLines(console, 40))
	case why == haltedLate:
		fmt.Fprintf(m.err, "vm: the command ended with status %d, but the machine did not halt within %v, and was killed\n", status, m.halt)
	}
	return status, nil
}

// remove ends what is left of the machine, and its directory.
func (m *vm) remove() {
	m.kill()
	switch {
	case m.dir == "":
	case os.Getenv("VARVE_VM_KEEP") != "":
		fmt.Fprintln(os.Stderr, "vm: kept", m.dir)
	default:
		_ = os.RemoveAll(m.dir)
	}
}

// takeProcessor picks one of the processors that this process may use, if there is one that no
// other machine has. Its lock, in dir, is held until release.
func takeProcessor(dir string) (cpu int, release func(), err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, nil, fmt.Errorf("processors to use: %w", err)
	}
	var all []int
	for i := 0; len(all) < set.Count(); i++ {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	for _, cpu := range all {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("cpu.%d", cpu)), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return 0, nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return cpu, func() { _ = f.Close() }, nil
		}
		_ = f.Close()
	}
	return all[os.Getpid()%len(all)], func() {}, nil
}

// streams are the two serial lines that the command's output comes by.
type streams struct {
	readers []*os.File
	done    chan struct{}
}

// finish waits for the last of the output. Nothing of the machine lives, but a process that it has
// left might have the other end.
func (s *streams) finish(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for range s.readers {
		select {
		case <-s.done:
		case <-ctx.Done():
		}
	}
	for _, r := range s.readers {
		_ = r.Close()
	}
}
