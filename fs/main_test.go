package fs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"varve/fs/internal/need"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveEnv); dir != "" {
		serveUntilKilled(dir)
		return
	}
	if file := os.Getenv(mapEnv); file != "" {
		writeMapped(file)
		return
	}
	if file := os.Getenv(peekEnv); file != "" {
		peek(file)
		return
	}
	goleak.VerifyTestMain(m)
}

// mountSource mounts src on a new directory until the end of the test.
func mountSource(t *testing.T, src Source, o Options) *Server {
	t.Helper()
	need.These(t, need.FUSE, need.Root)
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testLog{t}, nil))
	}
	s, err := Mount(t.TempDir(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := s.Unmount()
		if err == nil {
			return
		}
		t.Error(errors.Join(err, s.ForceUnmount()))
	})
	return s
}

// testLog writes log records to a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// commandTime bounds every program that a test runs.
const commandTime = 60 * time.Second

// run runs a program and returns its output. It fails the test if the program fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a program and returns its output and error.
func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	need.These(t, need.Program(name))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), errors.Join(err, ctx.Err())
}

// within fails the test if f takes longer than limit; f keeps running then.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s: not done after %v", what, limit)
	}
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
