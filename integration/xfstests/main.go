// Command xfstests runs an installed copy of xfstests in the test kernel, on volumes of varve and
// on plain loop devices of the same size, and compares: a test that passes on the loop devices and
// not on varve is varve's fault until its reason is known, and makes the run a failure.
//
//	xfstests run -xfstests DIR [-fstyp ext4] [-group quick] [-tests 'generic/001 …'] [flags]
//	xfstests report -out DIR [flags of run]
//
// xfstests is no part of varve: install it first; varve's side needs only its path.
//
// # How a run goes
//
// A target is what lies below the filesystems under test: "loop" or "varve". For each target a
// machine is started (integration/vm/run) and the script guest in it takes the tests in batches.
// Every batch gets a new store, or new files for the loop devices, so that no batch inherits what
// an earlier one filled or broke, and runs in one call of xfstests' own ./check. Its output is
// parsed as it arrives (transcript), and every test's outcome is appended to the target's results
// file at once: the next run goes on where this one ended, or was killed.
//
// A test beyond its time limit may leave processes that can't be killed and a mount that can't be
// unmounted. So its machine is killed as a whole, the outcome is "timeout", and a new machine goes
// on with the next test. If the machine dies by itself, the outcome of the test that ran is "died".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ok, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "xfstests:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	installed string // directory of the installed xfstests
	fstyp     string
	group     string
	tests     string
	targets   string
	size      string // of each device
	disk      int64  // GiB, of the image that the store, or the loop devices' files, lie on
	mem       string // of a machine
	limit     time.Duration
	batch     int
	jobs      int
	restart   bool
	out       string // what belongs to this fstyp and size is below it
	vm        string // the program that runs a command in the test kernel
	markdown  string
}

func parse(name string, args []string) (options, error) {
	var o options
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.StringVar(&o.installed, "xfstests", "", "directory of an installed xfstests")
	f.StringVar(&o.fstyp, "fstyp", "ext4", "filesystem to test")
	f.StringVar(&o.group, "group", "quick", "groups of tests, with spaces or commas between them")
	f.StringVar(&o.tests, "tests", "", "these tests instead of a group; generic/01? works too")
	f.StringVar(&o.targets, "targets", "loop varve", "what the filesystems lie on")
	f.StringVar(&o.size, "size", "2G", "size of each device")
	f.Int64Var(&o.disk, "disk", 16, "GiB of the sparse image that the store or the loop devices' files lie on")
	f.StringVar(&o.mem, "mem", "2G", "memory of a machine")
	f.DurationVar(&o.limit, "limit", 300*time.Second, "time limit of one test")
	f.IntVar(&o.batch, "batch", 10, "tests that share a store")
	f.IntVar(&o.jobs, "jobs", 1, "machines at once, one for each target")
	f.BoolVar(&o.restart, "restart", false, "forget earlier outcomes of these tests")
	f.StringVar(&o.out, "out", "out/xfstests", "directory for outcomes and logs")
	f.StringVar(&o.vm, "vm", "integration/vm/run", "program that runs a command in the test kernel")
	f.StringVar(&o.markdown, "md", "", "write the lists of tests into this file too")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.installed == "":
		return o, errors.New("no -xfstests DIR: the path of an installed xfstests, such as /var/lib/xfstests")
	case o.limit < time.Second || o.batch < 1 || o.jobs < 1:
		return o, fmt.Errorf("-limit %v, -batch %d, -jobs %d: each must be at least 1 (second)", o.limit, o.batch, o.jobs)
	}
	for _, t := range strings.Fields(o.targets) {
		if t != "loop" && t != "varve" {
			return o, fmt.Errorf("target %q; use loop or varve", t)
		}
	}
	var err error
	o.installed, err = filepath.Abs(o.installed)
	return o, err
}

// dir is where the outcomes of these parameters are. A test's outcome depends on them, and not on
// the limit.
func (o options) dir(target string) string {
	return filepath.Join(o.out, o.fstyp+"-"+o.size, target)
}

func run(ctx context.Context, args []string) (bool, error) {
	if len(args) == 0 || args[0] != "run" && args[0] != "report" {
		return false, errors.New("usage: xfstests run|report -xfstests DIR [flags]")
	}
	o, err := parse(args[0], args[1:])
	if err != nil {
		return false, err
	}
	tests, err := selectTests(o.installed, o.fstyp, o.group, o.tests)
	if err != nil {
		return false, err
	}
	targets := strings.Fields(o.targets)
	books := make([]*book, len(targets))
	for i, t := range targets {
		if books[i], err = openBook(filepath.Join(o.dir(t), "results")); err != nil {
			return false, err
		}
		defer func() { _ = books[i].close() }()
	}
	if args[0] == "run" {
		if err := runTargets(ctx, o, tests, targets, books); err != nil {
			return false, err
		}
	}
	c := compare(tests, targets, books)
	title := fmt.Sprintf("%s, devices of %s, %d tests", o.fstyp, o.size, len(tests))
	c.print(os.Stdout, title)
	if o.markdown != "" {
		return c.ok(), os.WriteFile(o.markdown, []byte(c.markdown(title)), 0o644)
	}
	return c.ok(), nil
}

// runTargets runs what has no outcome yet, up to o.jobs targets side by side.
func runTargets(ctx context.Context, o options, tests, targets []string, books []*book) error {
	slots := make(chan struct{}, o.jobs)
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		if o.restart {
			if err := books[i].forget(tests); err != nil {
				return err
			}
		}
		c := &campaign{
			target: t, book: books[i], limit: o.limit, progress: os.Stderr,
			start: (&vm{options: o, target: t}).start,
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = c.run(ctx, tests)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
