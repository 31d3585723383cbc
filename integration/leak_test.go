//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// holdings counts a daemon's kernel resources.
type holdings struct{ files, threads, mappings int }

func holdingsOf(t *testing.T, pid int) holdings {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", pid)
	var h holdings
	for name, n := range map[string]*int{"fd": &h.files, "task": &h.threads} {
		list, err := os.ReadDir(filepath.Join(proc, name))
		if err != nil {
			t.Fatal(err)
		}
		*n = len(list)
	}
	maps, err := os.ReadFile(filepath.Join(proc, "maps"))
	if err != nil {
		t.Fatal(err)
	}
	h.mappings = strings.Count(string(maps), "\n")
	return h
}

// TestLeaks: repeated attaching of every kind of device, mounting and failing commands leak no file
// descriptors, threads or mappings in the daemon, and a successor does not inherit those of its
// predecessors.
func TestLeaks(t *testing.T) {
	const warmUp, often = 4, 16
	ctx := limit(t, 4*time.Minute)
	n := newNode(ctx, t)
	n.serve(ctx)
	pid := n.cmd.Process.Pid
	n.varve(ctx, "volume", "create", "a", "--size", "64M")
	dir := t.TempDir()
	round := func() {
		for _, args := range [][]string{
			{"--copy-mode", "zero", "--queues", "2"},
			{"--copy-mode", "user"},
			{"--copy-mode", "plain", "--depth", "4"},
			{"--transport", "loop"},
		} {
			dev := n.attach(ctx, "a", args...)
			must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=64k", "count=4", "oflag=direct", "status=none")
			n.varve(ctx, "detach", dev)
		}
		n.varve(ctx, "mount", dir)
		if _, err := os.ReadFile(filepath.Join(dir, "volumes/a/live")); err != nil {
			t.Fatal(err)
		}
		n.varve(ctx, "umount", dir)
		for _, args := range [][]string{
			{"attach", "none"},
			{"detach", "a"},
			{"mount", n.store},
			{"volume", "delete", "none"},
			{"snapshot", "create", "none@s", "--wait"},
			{"serve", "--background"},
		} {
			if n.try(ctx, args...).code == 0 {
				t.Errorf("varve %v: not refused", args)
			}
		}
	}
	for range warmUp {
		round()
	}
	before := holdingsOf(t, pid)
	for range often {
		round()
	}
	var after holdings
	grown := func() bool {
		after = holdingsOf(t, pid)
		return after.files > before.files+2 || after.threads > before.threads+often/2 || after.mappings > before.mappings+2*often
	}
	for end := time.Now().Add(time.Minute * patience()); grown() && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond) // for resources that the kernel frees later, and for settling
	}
	t.Logf("%d rounds: %+v before, %+v after", often, before, after)
	if grown() {
		t.Errorf("after %d rounds the daemon holds %+v, and before %+v", often, after, before)
	}
	checkSuccessors(ctx, t, n)
}

// checkSuccessors compares the holdings of the first and the last of several successors.
func checkSuccessors(ctx context.Context, t *testing.T, n *node) {
	t.Helper()
	n.attach(ctx, "a", "--queues", "2")
	n.fuse(ctx)
	first := holdingsOf(t, n.upgrade(ctx).To.PID)
	var pid int
	for range 5 {
		pid = n.upgrade(ctx).To.PID
	}
	var last holdings
	for end := time.Now().Add(time.Minute * patience()); ; time.Sleep(100 * time.Millisecond) { // it closes what it needed for the start
		if last = holdingsOf(t, pid); last.files <= first.files+2 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("the sixth successor holds %d files, the first %d", last.files, first.files)
			break
		}
	}
	t.Logf("successors: %+v, later %+v", first, last)
}
