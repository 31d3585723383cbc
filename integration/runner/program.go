package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	machineLimit   = 25 * time.Minute // of a machine
	programLimit   = 24 * time.Minute // of the test program in it, which then says what it was doing
	diskSize       = 4 << 30
	pressureMemory = 384 // MiB
	stuckQuiet     = 5 * time.Second
)

// program is one package's test program, or a part of its tests, in a machine of its own.
type program struct {
	name      string // of the machine and its files
	pkg       string // "./blockdev"
	run, skip string // patterns
	pressure  bool   // it gets little memory, and a second disk to swap on
	expected  time.Duration
}

// step is the program's run. Its test program is below dir/bin; failures are said at once.
func (p *program) step(dir string, memory int, say io.Writer) *step {
	return &step{name: p.name, expected: p.expected, events: true, machine: true, run: func(ctx context.Context, j *job) error {
		return p.start(ctx, j, dir, memory, say)
	}}
}

func (p *program) start(ctx context.Context, j *job, dir string, memory int, say io.Writer) error {
	disks := []string{filepath.Join(dir, p.name+".disk")}
	if p.pressure {
		memory = pressureMemory
		disks = append(disks, filepath.Join(dir, p.name+".swap"))
	}
	for _, d := range disks {
		if err := newDisk(d); err != nil {
			return err
		}
		defer os.Remove(d)
	}
	cmd, err := p.command(ctx, dir, memory, disks)
	if err != nil {
		return err
	}
	pkg := "varve/" + strings.TrimPrefix(p.pkg, "./")
	events, err := newEventWriter(ctx, j.out, pkg, func(test string) { fmt.Fprintf(say, "%s%s: FAILED %s\n", indent, p.name, test) })
	if err != nil {
		return err
	}
	var stuck atomic.Bool
	watch := &stuckWatch{quiet: patience(stuckQuiet), end: func() {
		stuck.Store(true)
		_ = cmd.Process.Signal(unix.SIGTERM)
	}}
	cmd.Stdout = io.MultiWriter(j.log, watch, events)
	cmd.Stderr = cmd.Stdout
	err = j.do(cmd)
	watch.stop()
	count, eventsErr := events.close()
	j.note = count.note()
	var said bool // the events have a failure for it
	switch {
	case stuck.Load():
		err = fmt.Errorf("the tests said that they were stuck; the machine was killed; see %s", j.log.Name())
	case err != nil && count.failed == 0:
		err = fmt.Errorf("no test said that it failed; see %s: %w", j.log.Name(), err)
	case err == nil && eventsErr == nil && count.tests() == 0:
		err = fmt.Errorf("no test ran; see %s", j.log.Name())
	case err != nil:
		said = cmd.ProcessState.ExitCode() < statusTimeout // the tests', not the machine's
		err = fmt.Errorf("%d of %d tests failed; see %s: %w", count.failed, count.tests(), j.log.Name(), err)
	default:
		return eventsErr
	}
	if said {
		return err
	}
	return errors.Join(err, writeFailure(j.out, pkg, "the test kernel", err.Error()))
}

// command is integration/vm/run of the program. Time limits of the machine are
// integration/vm/run's.
func (p *program) command(ctx context.Context, dir string, memory int, disks []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	top, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	args := []string{"vm", "--mem", strconv.Itoa(memory) + "M", "--tmp", "85%", "--timeout", strconv.Itoa(int(patience(machineLimit).Seconds())), "--share", dir}
	for _, d := range disks {
		args = append(args, "--disk", d)
	}
	test := []string{programFile(dir, p.pkg), "-test.v=test2json", "-test.timeout", patience(programLimit).String()}
	if p.run != "" {
		test = append(test, "-test.run", p.run)
	}
	if p.skip != "" {
		test = append(test, "-test.skip", p.skip)
	}
	for i := range test {
		test[i] = quote(test[i])
	}
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output() // tests copy the Go source
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, append(args, "--", "cd "+quote(filepath.Join(top, p.pkg))+" && "+strings.Join(test, " "))...)
	cmd.Env = append(os.Environ(), "VARVE_BIN="+filepath.Join(top, "bin/varve"), "VARVE_BIN_FAILPOINT="+filepath.Join(dir, "bin/varve-failpoint"),
		"VARVE_BIN_NOFEATURES="+filepath.Join(dir, "bin/varve-nofeatures"), "VARVE_BIN_EARLIER="+filepath.Join(dir, "bin/varve-earlier"),
		"VARVE_REQUIRE_UBLK=1", "GOROOT="+strings.TrimSpace(string(goroot)), "VARVE_VM_CONSOLE="+filepath.Join(dir, p.name+".console"))
	return cmd, nil
}

// quote makes one word of the shell of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// newDisk makes an empty disk image.
func newDisk(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, diskSize)
}

// availableMemory is what machines may use, in MiB: what this machine has free, and /dev/shm has
// room for.
func availableMemory() (int, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil {
		return 0, fmt.Errorf("size of /dev/shm: %w", err)
	}
	room := int(fs.Bavail * uint64(fs.Bsize) >> 20)
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return min(room, kib>>10), nil
		}
	}
	return 0, fmt.Errorf("no MemAvailable in /proc/meminfo")
}

// testSeconds are the tests of ./integration that take long, about, on two idle processors. The
// others take ordinarySeconds. It balances machines, and no more: a test that it does not know is
// no mistake.
var testSeconds = map[string]int{
	"TestFilesystemOnDevice": 80, "TestStopAndStart": 60, "TestUpgradeUnderLoad": 60,
	"TestSnapshotUnderMountedFilesystem": 60, "TestDamagedFiles": 60, "TestPowerCut": 60,
	"TestFilesystemOnDiskStore": 50, "TestKillUnderMountedExt4": 40, "TestFullDisk": 35, "TestKillAtPoints": 35,
	"TestResizeUnderFilesystem": 35, "TestDedupTwoCopies": 35, "TestSnapshotUnderFio": 30,
	"TestDiffMakesTheNextImage": 30, "TestRefusalsNameHolders": 30, "TestDeviceServedBeforeIndexIsFull": 25,
	"TestHundredClones": 25, "TestLeaks": 25, "TestFailedQueueRecovered": 20, "TestLoopTransport": 20,
	"TestLinearizableUnderKills": 20, "TestUpgradeFails": 20, "TestFioVerify": 20, "TestFioVerifyWithDiscards": 20,
	"TestKillUnderFioVerify": 20, "TestSnapshotMount": 20, "TestClockSteps": 15, "TestUsesAddUp": 15,
	"TestSpaceComesBackOnEveryDisk": 15, "TestFailedDeviceRetried": 15, "TestScheduledScrub": 15,
	"TestReindexBesideIO": 15, "TestCloneOfMountedFilesystem": 15,
}

const ordinarySeconds = 4

func secondsOf(test string) int {
	if s, ok := testSeconds[test]; ok {
		return s
	}
	return ordinarySeconds
}

// spread returns each test to one of n lists, so that they take about as long.
func spread(tests []string, n int) [][]string {
	tests = slices.Clone(tests)
	slices.SortStableFunc(tests, func(a, b string) int { return cmp.Compare(secondsOf(b), secondsOf(a)) })
	lists, sums := make([][]string, n), make([]int, n)
	for _, t := range tests {
		i := slices.Index(sums, slices.Min(sums))
		lists[i] = append(lists[i], t)
		sums[i] += secondsOf(t)
	}
	return lists
}
