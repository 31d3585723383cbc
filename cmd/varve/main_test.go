package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/command"
	"varve/cmd/varve/internal/protocol"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"varve": func() {
			os.Exit(command.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// need skips a test whose feature this machine has not, and names it. It is the only place that skips.
func need(t *testing.T, feature string) {
	t.Helper()
	var files []string
	switch feature {
	case "loop":
		files = []string{"/dev/fuse", "/dev/loop-control"}
	case "ublk":
		files = []string{"/dev/ublk-control"}
	default:
		t.Fatalf("unknown feature %q", feature)
	}
	if os.Geteuid() != 0 {
		t.Skipf("missing feature: root")
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("missing feature: %s (%v)", feature, err)
		}
	}
}

// Scripts of commands that any machine can run.
func TestScripts(t *testing.T) { runScripts(t, "script") }

// Scripts that attach volumes through loop devices over FUSE.
func TestLoopScripts(t *testing.T) {
	need(t, "loop")
	runScripts(t, "loop")
}

// Scripts that attach volumes through ublk.
func TestUblkScripts(t *testing.T) {
	need(t, "ublk")
	runScripts(t, "ublk")
}

func runScripts(t *testing.T, dir string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", dir),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			store := filepath.Join(env.WorkDir, "store")
			env.Setenv("VARVE_STORE", store)
			env.Defer(func() { cleanUp(t, env.WorkDir, store) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"field":   fieldCmd,
			"setout":  setoutCmd,
			"killpid": killCmd,
		},
	})
}

// cleanUp leaves no daemon, device or mount of a script behind.
func cleanUp(t *testing.T, work, store string) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		if len(f) > 4 && strings.HasPrefix(f[4], work+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH) // best effort: a failure shows when the directory is removed
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, store)
	if err != nil {
		return // none runs
	}
	pid := c.Daemon().PID
	if _, err := c.Stop(ctx, protocol.Stop{Detach: true}); err != nil {
		t.Errorf("stop the daemon that the script left: %v", err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for unix.Kill(pid, 0) == nil && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// fieldCmd checks a field of the JSON on the last command's standard output: field PATH VALUE. ? is any value.
func fieldCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] field PATH VALUE")
	}
	text := field(ts, args[0])
	if same := args[1] == "?" || text == args[1]; same == neg {
		ts.Fatalf("%s is %s", args[0], text)
	}
}

// field reads the JSON on the last command's standard output. A path is keys and indices, like per_volume.0.name;
// len is a list's length.
func field(ts *testscript.TestScript, path string) string {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for key := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			got, ok := x[key]
			if !ok {
				ts.Fatalf("no field %q of %q", key, path)
			}
			v = got
		case []any:
			if key == "len" {
				v = float64(len(x))
				continue
			}
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(x) {
				ts.Fatalf("no index %q of %q in a list of %d", key, path, len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%q: %v has no fields", path, v)
		}
	}
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// setoutCmd puts the last command's standard output, or a field of it, into a variable: setout NAME [PATH].
func setoutCmd(ts *testscript.TestScript, neg bool, args []string) {
	switch {
	case neg || len(args) < 1 || len(args) > 2:
		ts.Fatalf("usage: setout NAME [PATH]")
	case len(args) == 1:
		ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
	default:
		ts.Setenv(args[0], field(ts, args[1]))
	}
}

// killCmd kills the store's daemon with a signal and waits for its end: killpid KILL|TERM.
func killCmd(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]unix.Signal{"KILL": unix.SIGKILL, "TERM": unix.SIGTERM}
	if neg || len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: killpid KILL|TERM")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, ts.Getenv("VARVE_STORE"))
	ts.Check(err)
	pid := c.Daemon().PID
	ts.Check(c.Close())
	ts.Check(unix.Kill(pid, signals[args[0]]))
	for unix.Kill(pid, 0) == nil {
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(state), ") Z ") {
			return // a zombie that somebody else has to collect
		}
		if ctx.Err() != nil {
			ts.Fatalf("daemon %d did not end", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
