package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"varve/cmd/varve/internal/client"
)

// programEnv has the test's binary be varve, with so much patience for a daemon.
const programEnv = "VARVE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if limit := os.Getenv(programEnv); limit != "" {
		d, err := time.ParseDuration(limit)
		if err != nil {
			panic(err)
		}
		client.Patience, lockPatience = d, d
		os.Exit(Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// patience is for what takes milliseconds on an idle machine.
const patience = 2 * time.Minute

// node is a store, and the daemon that the test runs on it.
type node struct {
	t      *testing.T
	dir    string // the store
	uid    int    // whose commands; 0: the test's own
	hurry  bool   // its commands give up soon
	daemon *exec.Cmd
	ended  chan struct{} // closed when it has
	logs   string        // file
}

// newNode makes a store.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "store"), logs: filepath.Join(t.TempDir(), "log")}
	n.must("init")
	return n
}

func (n *node) command(args ...string) *exec.Cmd {
	n.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe, append([]string{"--store", n.dir}, args...)...)
	limit := patience
	if n.hurry {
		limit = 3 * time.Second
	}
	cmd.Env = append(os.Environ(), programEnv+"="+limit.String())
	if n.uid != 0 {
		f, err := os.Open(exe)
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { _ = f.Close() })
		cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{f} // go's own directory is not everybody's
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(n.uid), Gid: uint32(n.uid)}}
	}
	return cmd
}

// run returns what a command says on both outputs, and how it ended.
func (n *node) run(args ...string) (string, error) {
	n.t.Helper()
	var out bytes.Buffer
	cmd := n.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // a daemon in the background would keep the output open
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), err
}

func (n *node) must(args ...string) string {
	n.t.Helper()
	out, err := n.run(args...)
	if err != nil {
		n.t.Fatalf("varve %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs a command that has to fail with all the words.
func (n *node) refused(words []string, args ...string) {
	n.t.Helper()
	out, err := n.run(args...)
	if err == nil {
		n.t.Errorf("varve %s: no failure\n%s", strings.Join(args, " "), out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			n.t.Errorf("varve %s: the error does not say %q: %s", strings.Join(args, " "), w, out)
		}
	}
}

// serve starts the daemon as the test's child, with its log in a file, and returns when it answers.
func (n *node) serve(args ...string) {
	n.t.Helper()
	logs, err := os.OpenFile(n.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer logs.Close()
	n.daemon = n.command(append([]string{"serve", "--lock-memory=false"}, args...)...)
	n.daemon.Stdout, n.daemon.Stderr = logs, logs
	n.start()
	n.await("the daemon answers", func() bool {
		if !n.alive() {
			n.t.Fatalf("the daemon has ended\n%s", n.log())
		}
		return n.listens()
	})
}

// start starts the daemon that was made.
func (n *node) start() {
	n.t.Helper()
	if err := n.daemon.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // the status says it; varve stop waits for a process that somebody has waited for
		close(ended)
	}(n.daemon, n.ended)
	n.t.Cleanup(n.kill)
}

func (n *node) listens() bool {
	dir, err := os.Open(n.dir)
	if err != nil {
		return false
	}
	defer dir.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/varve.sock", dir.Fd())) // the path may be long
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (n *node) signal(sig syscall.Signal) {
	n.t.Helper()
	if err := n.daemon.Process.Signal(sig); err != nil {
		n.t.Fatalf("signal %v: %v", sig, err)
	}
}

// alive says whether the daemon has not ended.
func (n *node) alive() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

func (n *node) log() string {
	n.t.Helper()
	b, err := os.ReadFile(n.logs)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	return string(b)
}

func (n *node) await(what string, cond func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("not within %v: %s\n%s", patience, what, n.log())
		}
	}
}

// end waits for the daemon's end and gives its exit status.
func (n *node) end() int {
	n.t.Helper()
	n.await("the daemon ends", func() bool { return !n.alive() })
	code := n.daemon.ProcessState.ExitCode()
	n.daemon = nil
	return code
}

func (n *node) kill() {
	if n.daemon != nil {
		_ = n.daemon.Process.Kill() // it may have ended
		<-n.ended
		n.daemon = nil
	}
}
