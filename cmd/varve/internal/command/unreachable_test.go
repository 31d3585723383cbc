package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A daemon makes its socket again when somebody has removed or replaced it, and no command takes it
// for absent.
func TestSocketIsMadeAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve()
	socket := filepath.Join(n.dir, "varve.sock")
	for _, spoil := range []func() error{
		func() error { return os.Remove(socket) },
		func() error { return os.Rename(socket, socket+".old") },
		func() error {
			if err := os.Remove(socket); err != nil {
				return err
			}
			return os.WriteFile(socket, nil, 0o600)
		},
	} {
		n.await("the daemon has seen its socket", n.listens)
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(n.must("stat"), fmt.Sprintf("pid %d", n.daemon.Process.Pid)) {
			t.Error("somebody else answers")
		}
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	n.must("stop")
	if code := n.end(); code != exitOK {
		t.Errorf("status %d after stop", code)
	}
}

// What can't reach a daemon names it: the lock's file says who has the store.
func TestLockedStoreNamesItsHolder(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve()
	n.signal(unix.SIGSTOP)
	n.hurry = true
	defer n.signal(unix.SIGCONT)
	if err := os.Remove(filepath.Join(n.dir, "varve.sock")); err != nil {
		t.Fatal(err)
	}
	n.together([]string{"in use", fmt.Sprintf("pid %d", n.daemon.Process.Pid), "no daemon answers"},
		[]string{"stat"}, []string{"stop"}, []string{"volume", "create", "a", "--size", "1M"}, []string{"serve"})
}

// together runs commands at once, all of which have to fail with all the words.
func (n *node) together(words []string, commands ...[]string) {
	n.t.Helper()
	var all sync.WaitGroup
	for _, args := range commands {
		all.Go(func() { n.refused(words, args...) })
	}
	all.Wait()
}

// A daemon that is stopped keeps no command waiting for ever, and the error says what is the matter
// with it.
func TestStoppedDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve()
	n.signal(unix.SIGSTOP)
	n.hurry = true
	n.together([]string{fmt.Sprintf("pid %d, is stopped", n.daemon.Process.Pid), "kill -CONT"},
		[]string{"stat"}, []string{"stop"}, []string{"check"}, []string{"volume", "list"}, []string{"attach", "a"},
		[]string{"snapshot", "create", "a@b", "--wait"}, []string{"mount", t.TempDir()}, []string{"umount", t.TempDir()},
		[]string{"serve"}, []string{"serve", "--background"}, []string{"upgrade"})
	n.signal(unix.SIGCONT)
	n.hurry = false
	n.must("stat")
}

// A store that is moved under its daemon is still its daemon's: at the new place, with all it makes
// from then on.
func TestStoreIsMoved(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.serve()
	n.must("volume", "create", "a", "--size", "1M")
	old, moved := n.dir, n.dir+"-moved"
	if err := os.Rename(old, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(old, 0o700); err != nil { // somebody else's now
		t.Fatal(err)
	}
	n.dir = moved
	n.must("volume", "create", "b", "--size", "1M")
	n.must("snapshot", "create", "b@s", "--wait")
	if err := os.Remove(filepath.Join(moved, "varve.sock")); err != nil {
		t.Fatal(err)
	}
	if out := n.must("volume", "list"); !strings.Contains(out, "b") {
		t.Errorf("volumes after the move:\n%s", out)
	}
	n.must("stop")
	if code := n.end(); code != exitOK {
		t.Errorf("status %d after stop\n%s", code, n.log())
	}
	if left, err := os.ReadDir(old); err != nil || len(left) > 0 {
		t.Errorf("the daemon has made %v where its store was (%v)", left, err)
	}
	if out := n.must("check"); strings.Contains(out, "damage:") {
		t.Errorf("check after the move: %s", out)
	}
}
