package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"varve/blockdev"
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

// Scripts of devices without a volume, one at a time: they know the numbers of their devices, and
// delete all that there are.
func TestTargetScripts(t *testing.T) {
	need(t, "ublk")
	files, err := filepath.Glob(filepath.Join("testdata", "targets", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts %v, %v", files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			before, err := blockdev.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { deleteNew(t, before) })
			run(t, testscript.Params{Files: []string{f}})
		})
	}
}

// deleteNew deletes the devices that a script has left.
func deleteNew(t *testing.T, before []blockdev.DeviceInfo) {
	t.Helper()
	ctx := context.Background()
	list, err := blockdev.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, d := range list {
		if slices.ContainsFunc(before, func(b blockdev.DeviceInfo) bool { return b.ID == d.ID }) {
			continue
		}
		t.Errorf("the script has left %s", d.Path)
		if err := blockdev.Delete(ctx, d.ID, true); err != nil {
			t.Error(err)
		}
	}
}

func runScripts(t *testing.T, dir string) {
	t.Helper()
	run(t, testscript.Params{Dir: filepath.Join("testdata", dir)})
}

func run(t *testing.T, p testscript.Params) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:                 p.Dir,
		Files:               p.Files,
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

			"waitstate": waitStateCmd,
			"waitsize":  waitSizeCmd,
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

// waitFor waits until what is asked for, or fails the script.
func waitFor(ts *testscript.TestScript, what string, is func() bool) {
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s: not within a minute", what)
		}
	}
}

// waitStateCmd waits for a state of a ublk device: waitstate ID STATE.
func waitStateCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitstate ID STATE")
	}
	id, err := strconv.Atoi(args[0])
	ts.Check(err)
	waitFor(ts, "state "+args[1], func() bool {
		i, err := blockdev.Info(context.Background(), id)
		return err == nil && string(i.State) == args[1]
	})
}

// waitSizeCmd waits for the size of a block device in bytes: waitsize DEVICE BYTES.
func waitSizeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitsize DEVICE BYTES")
	}
	waitFor(ts, args[1]+" bytes", func() bool {
		b, err := os.ReadFile("/sys/block/" + filepath.Base(args[0]) + "/size")
		sectors, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return err == nil && strconv.FormatInt(sectors*512, 10) == args[1]
	})
}
