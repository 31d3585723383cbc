// Command runner runs the project's checks and tests, on this machine and in the test kernel.
//
//	runner test                        make test: everything, with its logs in out/test
//	runner check [-all]                make check: what a developer runs after a change
//	runner lint                        make lint: the linter, installed if need be
//	runner fuzz [-time D] [-run R]     make fuzz: each fuzz target for a while
//	runner integration [FLAGS] [PKG]   integration/run: tests in the test kernel
//	runner vm [FLAGS] -- CMD           integration/vm/run: one command in the test kernel
//
// Each takes -h. These variables are for all of them:
//
//	VARVE_TEST_PATIENCE   multiplies time limits, on a machine that has other work
//	VARVE_VM_JOBS         machines of the test kernel that run at once; default 2, or 1 on a machine with one processor
//	VARVE_CACHE           where the test kernel and the linter are; default ~/.cache/varve
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errFailed is the error of a run whose output has said what failed.
var errFailed = errors.New("failed")

var commands = map[string]func(ctx context.Context, args []string) error{
	"test": testCommand, "check": checkCommand, "lint": lintCommand, "fuzz": fuzzCommand, "integration": integrationCommand,
}

func main() {
	// A child's parent-death signal is sent when the thread that started it ends. Go ends a thread
	// only with a goroutine that is locked to it, and here none but this is.
	runtime.LockOSThread()
	if len(os.Args) > 1 && os.Args[1] == "vm" {
		os.Exit(vmCommand(os.Args[2:]))
	}
	var run func(context.Context, []string) error
	if len(os.Args) > 1 {
		run = commands[os.Args[1]]
	}
	if run == nil {
		fmt.Fprintln(os.Stderr, "usage: runner test|check|lint|fuzz|integration|vm [flags]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := enterCheckout()
	if err == nil {
		err = run(ctx, os.Args[2:])
	}
	stop()
	os.Exit(exitStatus(err))
}

// exitStatus prints what has not been printed of err, and returns the exit status for it.
func exitStatus(err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errFailed):
		return 1
	}
	fmt.Fprintln(os.Stderr, "runner:", err)
	return 1
}

// enterCheckout goes to the top directory of the checkout: it has the module's go.mod.
func enterCheckout() error {
	dir, err := os.Getwd()
	if program, e := os.Executable(); e == nil {
		dir = filepath.Dir(program) // start puts it into the checkout's out/runner
	}
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return os.Chdir(dir)
		}
		if dir == "/" {
			return errors.New("no go.mod above this program: start it by make, or by integration/runner/start")
		}
	}
	return err
}

// newFlags is the flag set of a subcommand.
func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// parse parses the arguments of a subcommand. For -h it prints the usage, and returns flag.ErrHelp.
func parse(f *flag.FlagSet, usage string, args []string) error {
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Println("usage: " + usage)
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
	}
	return err
}

// parseNoArguments is parse for a subcommand that takes no others than flags.
func parseNoArguments(f *flag.FlagSet, usage string, args []string) error {
	if err := parse(f, usage, args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s takes no argument %q", f.Name(), f.Arg(0))
	}
	return nil
}

// patience multiplies d by VARVE_TEST_PATIENCE.
func patience(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv("VARVE_TEST_PATIENCE")); err == nil && n > 1 {
		return d * time.Duration(n)
	}
	return d
}

// vmJobs is how many machines of the test kernel run at once.
func vmJobs() (int, error) {
	s := os.Getenv("VARVE_VM_JOBS")
	if s == "" {
		return min(2, runtime.NumCPU()), nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("VARVE_VM_JOBS is %q; it takes a number of machines, 1 or more", s)
	}
	return n, nil
}

func cacheDir() (string, error) {
	if d := os.Getenv("VARVE_CACHE"); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	return filepath.Join(d, "varve"), err
}

// killGroupOnEnd makes the end of the command's context the end of all processes that it has
// started, and so the end of this program, whatever it dies of. They may act on SIGTERM, as
// integration/vm/run does, which ends its machine.
func killGroupOnEnd(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
}

// installPackages installs Debian packages that are missing.
func installPackages(ctx context.Context, log io.Writer, packages ...string) error {
	cmd := exec.CommandContext(ctx, "bash", "-c", `set -euo pipefail; . integration/kernel/debian.sh; install_packages "$@"`, "install")
	cmd.Args = append(cmd.Args, packages...)
	cmd.Stdout, cmd.Stderr = log, log
	killGroupOnEnd(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("install %s: %w", strings.Join(packages, " "), err)
	}
	return nil
}
