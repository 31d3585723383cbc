package command

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// No signal that a terminal, a supervisor or logrotate sends ends the daemon, and the log says
// which came.
func TestDaemonOutlivesSignals(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve()
	for _, sig := range append([]os.Signal{unix.SIGQUIT}, ignored...) {
		n.signal(sig.(syscall.Signal))
		name := unix.SignalName(sig.(syscall.Signal))
		n.await("the log names "+name, func() bool {
			if !n.alive() {
				t.Fatalf("%s has ended the daemon\n%s", name, n.log())
			}
			return strings.Contains(n.log(), "signal="+name)
		})
	}
	n.signal(unix.SIGQUIT) // the first one may have come before the daemon served
	n.await("SIGQUIT writes stacks", func() bool { return strings.Contains(n.log(), "daemon.(*Daemon).serve") })
	if out := n.must("stat"); !strings.Contains(out, "pid") {
		t.Errorf("no daemon answers: %s", out)
	}
	n.signal(unix.SIGTERM)
	if code := n.end(); code != exitOK || !strings.Contains(n.log(), "terminated") {
		t.Errorf("SIGTERM: status %d\n%s", code, n.log())
	}
}

// SIGHUP opens the log anew: what was moved away stays as it is, and what comes is under the old
// name.
func TestHangupOpensLogAnew(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve()
	for range 2 {
		old := n.logs + ".1"
		if err := os.Rename(n.logs, old); err != nil {
			t.Fatal(err)
		}
		n.signal(unix.SIGHUP)
		n.await("the log is there again", func() bool { return strings.Contains(n.log(), "log reopened") })
		before, err := os.Stat(old)
		if err != nil {
			t.Fatal(err)
		}
		n.signal(unix.SIGQUIT)
		n.await("the stacks are in the new log", func() bool { return strings.Contains(n.log(), "daemon.(*Daemon).serve") })
		if after, err := os.Stat(old); err != nil || after.Size() != before.Size() {
			t.Errorf("the log that was moved away grows: %v", err)
		}
		if fi, err := os.Stat(n.logs); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the new log has mode %v (%v)", fi.Mode(), err)
		}
	}
	n.must("stop")
	if code := n.end(); code != exitOK {
		t.Errorf("status %d after stop", code)
	}
}

// A daemon whose log nobody reads any more goes on.
func TestDaemonOutlivesItsLogReader(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	n.daemon = n.command("serve", "--lock-memory=false")
	n.daemon.Stderr = w
	n.start()
	_ = w.Close()
	n.await("the daemon answers", n.listens)
	_ = r.Close()
	for range 3 {
		n.signal(unix.SIGHUP) // it speaks of it
		n.must("stat")
	}
	if !n.alive() {
		t.Error("the daemon has ended with its log's reader")
	}
}
