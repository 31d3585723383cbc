//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// result is the outcome of a command.
type result struct {
	stdout, stderr string
	code           int // exit status; -1: killed by a signal or the time limit
}

// run runs a command until it ends or ctx does. It never fails the test.
func run(ctx context.Context, name string, args ...string) result {
	var out, errs bytes.Buffer
	line := name + " " + strings.Join(args, " ")
	lastCommand.Store(&line)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	r := result{stdout: out.String(), stderr: errs.String(), code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.stderr += err.Error()
		r.code = -1
	}
	if ctx.Err() != nil {
		r.stderr += "\n(time limit: " + ctx.Err().Error() + ")"
	}
	return r
}

// must runs a command that must succeed, and returns its output without the last newline.
func must(ctx context.Context, t *testing.T, name string, args ...string) string {
	t.Helper()
	began := time.Now()
	r := run(ctx, name, args...)
	if took := time.Since(began); took > 5*time.Second {
		t.Logf("%s %s: %.1f s", name, strings.Join(args, " "), took.Seconds())
	}
	if r.code != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return strings.TrimRight(r.stdout, "\n")
}

// output is what a command has written so far. It can be read while the command writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// background is a command that runs in parallel with the test.
type background struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error
}

// start starts a command in parallel with the test, whose end also ends the command.
func start(t *testing.T, name string, args ...string) *background {
	t.Helper()
	b := &background{cmd: exec.Command(name, args...), done: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	b.cmd.WaitDelay = 5 * time.Second
	if err := b.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		b.err = b.cmd.Wait()
		close(b.done)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
		<-b.done
	})
	return b
}

// running reports whether the command is still running.
func (b *background) running() bool {
	select {
	case <-b.done:
		return false
	default:
		return true
	}
}

// stop sends a signal to the command and its children, and waits for the command to end.
func (b *background) stop(ctx context.Context, t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-b.cmd.Process.Pid, sig); err != nil {
		t.Fatalf("signal %s: %v", b.cmd.Args[0], err)
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		t.Fatalf("%s did not end on %v", b.cmd.Args[0], sig)
	}
}

// wait waits for the command to end, which must succeed.
func (b *background) wait(ctx context.Context, t *testing.T) string {
	t.Helper()
	select {
	case <-b.done:
	case <-ctx.Done():
		t.Fatalf("%s: not done in time", strings.Join(b.cmd.Args, " "))
	}
	if b.err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(b.cmd.Args, " "), b.err, b.out.String())
	}
	return b.out.String()
}

// patience is VARVE_TEST_PATIENCE, by which time limits are multiplied on a machine that has other
// work; 1 if it is not set.
func patience() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("VARVE_TEST_PATIENCE")); err == nil && n > 1 {
		return time.Duration(n)
	}
	return 1
}

// limit sets the test's time limit, at which the processes that it started are killed. If one
// cannot be killed because it waits for a device, the whole run ends with a report of what waits
// for what.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	d *= patience()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	stuck := time.AfterFunc(d+30*time.Second, func() { reportStuck(t.Name()) })
	t.Cleanup(func() { stuck.Stop() })
	return ctx
}

// lastCommand and theDaemon are used only by reportStuck.
var (
	lastCommand atomic.Pointer[string]
	theDaemon   atomic.Pointer[node]
)

// reportStuck prints where processes block in the kernel, and the daemon's goroutines, and ends the
// machine: a process with a thread that waits in the kernel cannot exit.
func reportStuck(test string) {
	fmt.Printf("--- FAIL: %s: stuck\n", test)
	if c := lastCommand.Load(); c != nil {
		fmt.Println("last command:", *c)
	}
	before, _ := exec.Command("dmesg").Output()
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
	after, _ := exec.Command("dmesg").Output()
	fmt.Printf("blocked tasks:\n%s\n", bytes.TrimPrefix(after, before))
	if n := theDaemon.Load(); n != nil && n.cmd != nil {
		_ = n.cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(2 * time.Second)
		fmt.Printf("the daemon:\n%s\n", n.logTail())
	}
	endMachine()
	os.Exit(2)
}

// endMachine makes integration/vm/run kill the machine once all output is written.
func endMachine() {
	_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1) // tcdrain(3)
	if err := os.WriteFile(filepath.Join(os.Getenv("VARVE_VM_DIR"), "stuck"), nil, 0o600); err != nil {
		fmt.Println("the machine can't be ended:", err)
	}
}

// eventually polls until cond is true. It fails the test after d, or a minute if that is longer: what
// comes in the end may take long on a busy machine, and how long is not what a test is about.
func eventually(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	d = max(d, time.Minute) * patience()
	for deadline := time.Now().Add(d); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}
