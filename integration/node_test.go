//go:build integration

package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// node is one store, its daemon, and the test's devices and mounts of it.
type node struct {
	t     *testing.T
	store string // directory
	logs  string // file with the logs of all its daemons
	cmd   *exec.Cmd
	gone  chan struct{} // closed when cmd has ended

	background bool // a daemon may run that is not the test's child

	program string   // the program under test; empty: varve
	env     []string // of the daemons, added to the test's own
}

// newNode creates a store in the test's directory, which is on the guest's tmpfs.
func newNode(ctx context.Context, t *testing.T, initArgs ...string) *node {
	t.Helper()
	return newNodeAt(ctx, t, filepath.Join(t.TempDir(), "store"), initArgs...)
}

// newNodeAt creates a store in a directory that does not exist yet.
func newNodeAt(ctx context.Context, t *testing.T, store string, initArgs ...string) *node {
	t.Helper()
	markKernelLog(t)
	n := &node{t: t, store: store, logs: filepath.Join(t.TempDir(), "daemon.log")}
	n.varve(ctx, append([]string{"init"}, initArgs...)...)
	t.Cleanup(n.takeDown)
	return n
}

// try runs a varve command on the store.
func (n *node) try(ctx context.Context, args ...string) result {
	return run(ctx, cmp.Or(n.program, varve), append([]string{"--store", n.store}, args...)...)
}

// varve runs a varve command that must succeed.
func (n *node) varve(ctx context.Context, args ...string) string {
	n.t.Helper()
	return must(ctx, n.t, cmp.Or(n.program, varve), append([]string{"--store", n.store}, args...)...)
}

// refuse runs a varve command that must fail with a one-line error that contains all the words.
func (n *node) refuse(ctx context.Context, words []string, args ...string) {
	n.t.Helper()
	checkRefusal(n.t, n.try(ctx, args...), words, args)
}

func checkRefusal(t *testing.T, r result, words, args []string) {
	t.Helper()
	line := strings.Join(args, " ")
	if r.code <= 0 {
		t.Errorf("varve %s: exit status %d, want a failure\n%s%s", line, r.code, r.stdout, r.stderr)
		return
	}
	t.Logf("varve %s: status %d: %s", line, r.code, strings.TrimSpace(r.stderr))
	for _, w := range words {
		if !strings.Contains(strings.ToLower(r.stderr), strings.ToLower(w)) {
			t.Errorf("varve %s: the error does not say %q: %s", line, w, r.stderr)
		}
	}
	for _, w := range []string{"goroutine ", "panic:", "runtime error", "0x0"} {
		if strings.Contains(r.stderr, w) {
			t.Errorf("varve %s: the error is no message for a user: %s", line, r.stderr)
		}
	}
}

// query decodes the output of a command with --json.
func query[T any](ctx context.Context, n *node, args ...string) T {
	n.t.Helper()
	var v T
	out := n.varve(ctx, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		n.t.Fatalf("varve %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// serve starts the daemon as a child of the test, and waits until it answers.
func (n *node) serve(ctx context.Context, args ...string) {
	n.t.Helper()
	n.launch(args...)
	if !n.await(ctx) {
		n.t.Fatalf("the daemon ended: %v\n%s", n.cmd.ProcessState, n.logTail())
	}
}

// launch starts the daemon as a child of the test.
func (n *node) launch(args ...string) {
	n.t.Helper()
	logs, err := os.OpenFile(n.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer logs.Close()
	n.cmd = exec.Command(cmp.Or(n.program, varve), append([]string{"--store", n.store, "serve"}, args...)...)
	n.cmd.Env = append(os.Environ(), n.env...)
	n.cmd.Stdout, n.cmd.Stderr = logs, logs
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatalf("start the daemon: %v", err)
	}
	theDaemon.Store(n)
	n.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) {
		_ = cmd.Wait()
		close(gone)
	}(n.cmd, n.gone)
}

// await waits until the daemon answers. It returns false if the daemon ends instead.
func (n *node) await(ctx context.Context) bool {
	n.t.Helper()
	for !n.answers() {
		select {
		case <-n.gone:
			return false
		case <-ctx.Done():
			n.t.Fatalf("the daemon does not answer\n%s", n.logTail())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

// answers reports whether a process listens on the store's socket.
func (n *node) answers() bool {
	dir, err := os.Open(n.store)
	if err != nil {
		return false
	}
	defer dir.Close()
	// Through the descriptor: a socket's address is short, a test's directory may not be.
	c, err := net.DialTimeout("unix", fmt.Sprintf("/proc/self/fd/%d/varve.sock", dir.Fd()), time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// stop ends the daemon by varve stop.
func (n *node) stop(ctx context.Context, args ...string) {
	n.t.Helper()
	n.varve(ctx, append([]string{"stop"}, args...)...)
	n.awaitEnd(ctx)
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("the daemon's exit status is %d\n%s", code, n.logTail())
	}
	n.cmd = nil
}

// kill ends the daemon by SIGKILL, like a crash.
func (n *node) kill(ctx context.Context) {
	n.t.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Fatalf("kill the daemon: %v\n%s", err, n.logTail())
	}
	n.awaitEnd(ctx)
	n.cmd = nil
}

func (n *node) awaitEnd(ctx context.Context) {
	n.t.Helper()
	select {
	case <-n.gone:
	case <-ctx.Done():
		_ = n.cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(time.Second)
		n.t.Fatalf("the daemon did not end\n%s", n.logTail())
	}
}

// takeDown removes everything. The test's own, later cleanups unmount what is mounted from devices.
func (n *node) takeDown() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if n.t.Failed() {
		n.t.Logf("daemon's log:\n%s", n.logTail())
	}
	if n.cmd == nil {
		if n.background {
			n.stopBackground()
		}
		return
	}
	if r := n.try(ctx, "stop", "--detach"); r.code != 0 {
		n.t.Errorf("varve stop --detach: %s", r.stderr)
		_ = n.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go to its log
		time.Sleep(time.Second)
		n.t.Logf("daemon's log:\n%s", n.logTail())
		_ = n.cmd.Process.Kill()
	}
	select {
	case <-n.gone:
	case <-ctx.Done():
		n.t.Errorf("the daemon did not end\n%s", n.logTail())
		_ = n.cmd.Process.Kill()
		<-n.gone
	}
}

// logTail returns the ends of the logs of the daemons that the test started, and of those in the
// background.
func (n *node) logTail() string {
	logs, _ := filepath.Glob(filepath.Join(n.store, "*.log"))
	var all strings.Builder
	for _, file := range append(logs, n.logs) {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if len(b) > 64<<10 {
			b = b[len(b)-64<<10:]
		}
		all.Write(b)
	}
	return all.String()
}

// volume creates a volume, attaches it, and returns the device's path.
func (n *node) volume(ctx context.Context, name, size string, attachArgs ...string) string {
	n.t.Helper()
	n.varve(ctx, "volume", "create", name, "--size", size)
	return n.attach(ctx, name, attachArgs...)
}

// attach attaches a volume and returns the path of its device, which must be the only output.
func (n *node) attach(ctx context.Context, name string, args ...string) string {
	n.t.Helper()
	dev := n.varve(ctx, append([]string{"attach", name}, args...)...)
	st, err := os.Stat(dev)
	if err != nil || st.Mode()&os.ModeDevice == 0 {
		n.t.Fatalf("varve attach printed %q, which is no device node (%v)", dev, err)
	}
	return dev
}

// fuse mounts the store and returns the directory.
func (n *node) fuse(ctx context.Context, args ...string) string {
	n.t.Helper()
	dir := n.t.TempDir()
	n.varve(ctx, append([]string{"mount", dir}, args...)...)
	return dir
}

// snapshot creates a snapshot, waits until it has settled, and returns its root.
func (n *node) snapshot(ctx context.Context, name string) string {
	n.t.Helper()
	root := n.varve(ctx, "snapshot", "create", name, "--wait")
	if len(root) != 64 {
		n.t.Fatalf("varve snapshot create %s --wait printed %q, not a root of 64 hex digits", name, root)
	}
	return root
}

// stat is the part of `varve stat --json` that the tests use.
type stat struct {
	ChunkSize  int64   `json:"chunk_size"`
	Volumes    int     `json:"volumes"`
	Snapshots  int     `json:"snapshots"`
	Logical    int64   `json:"logical"`
	Stored     int64   `json:"stored"`
	Metadata   int64   `json:"metadata"`
	Tail       int64   `json:"tail"`
	Used       int64   `json:"used"`
	DedupRatio float64 `json:"dedup_ratio"`
	Free       int64   `json:"free"`
}
