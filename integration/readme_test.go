//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// step is a command in README's session, and its output.
type step struct {
	command string
	shown   []string
}

// quickStart returns the session below README's heading of that name.
func quickStart(t *testing.T) []step {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## Quick start\n")
	if !ok {
		t.Fatal("README has no quick start")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var steps []step
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		if !ok {
			continue
		}
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			steps = append(steps, step{command: command})
		} else if len(steps) > 0 {
			last := &steps[len(steps)-1]
			last.shown = append(last.shown, line)
		}
	}
	if len(steps) < 10 {
		t.Fatalf("README's quick start has %d commands", len(steps))
	}
	return steps
}

// Output that differs between runs.
var (
	roots  = regexp.MustCompile(`\b[0-9a-f]{8}\b|\b[0-9a-f]{64}\b`)
	dirs   = regexp.MustCompile(`/tmp/tmp\.\w+`)
	digits = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)
	spaces = regexp.MustCompile(` +`)
)

func general(line string) string {
	line = dirs.ReplaceAllString(roots.ReplaceAllString(line, "ROOT"), "DIR")
	return spaces.ReplaceAllString(digits.ReplaceAllString(line, "N"), " ")
}

// TestQuickStart runs README's commands in one shell, and expects the output in README.
func TestQuickStart(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	steps := quickStart(t)
	var script strings.Builder
	const mark = "--- step "
	for i, s := range steps {
		fmt.Fprintf(&script, "echo '%s%d'\n%s\n", mark, i, s.command)
	}
	shell := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", script.String())
	shell.Dir = ".."
	shell.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "VARVE_") })
	shell.WaitDelay = 5 * time.Second
	out, err := shell.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(out), mark)[1:]
	if len(parts) != len(steps) {
		t.Fatalf("%d of %d commands were run", len(parts), len(steps))
	}
	for i, s := range steps {
		_, wrote, _ := strings.Cut(strings.TrimSuffix(parts[i], "\n"), "\n")
		if got, want := general(wrote), general(strings.Join(s.shown, "\n")); got != want {
			t.Errorf("%s\nwrites\n%s\nwhere README has\n%s", s.command, wrote, strings.Join(s.shown, "\n"))
		}
	}
	for _, dir := range []string{"/run/varve"} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left behind", dir)
		}
	}
	if left, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(left), "/tmp/tmp.") {
		t.Errorf("mounts are left behind (%v):\n%s", err, left)
	}
}
