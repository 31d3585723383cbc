package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"varve/integration/tally"
)

const testUsage = `make test
Checks everything, from a fresh clone: installs and builds what it needs, writes the logs of its steps to out/test, and
ends with one line "N passed, N failed, N skipped". What takes hours is in make crash.

  VARVE_CHECKS   sequences that each property test tries; default 300
  VARVE_CUTS     crashes in the long random histories; default 300
  VARVE_FUZZ     seconds that each fuzz target is tried; default 2`

// shards is how many machines the integration tests are spread over. More than run at once: the
// last ones end at about the same time then, although it is not known how long each test takes.
const shards = 4

// slowest is how many of the slowest tests are named at the end.
const slowest = 12

// testCommand is make test.
func testCommand(ctx context.Context, args []string) error {
	f := newFlags("test")
	list := f.Bool("list", false, "say what would be run, and end")
	only := f.String("only", "", "`regexp` of steps to run alone, with those that they need; a test that skips in them has passed nowhere else, "+
		"and is a failure")
	if err := parseNoArguments(f, testUsage, args); err != nil {
		return err
	}
	jobs, err := vmJobs()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs("out/test")
	if err != nil {
		return err
	}
	steps, err := testSteps(dir, jobs, os.Stdout)
	if err == nil && *only != "" {
		steps, err = onlySteps(steps, *only)
	}
	if err != nil {
		return err
	}
	// One more than there are processors: a machine waits for its disk much of the time.
	s := &schedule{steps: steps, jobs: max(jobs, min(runtime.NumCPU(), 4)) + 1, machines: jobs, dir: dir, say: os.Stdout}
	if *list {
		for _, x := range steps {
			fmt.Printf("%-22s %6s  %s\n", x.name, clock(x.expected), strings.Join(x.needs, " "))
		}
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	fmt.Printf("%d steps, %d at once; %s on two idle processors; logs in out/test\n", len(steps), s.jobs, clock(s.estimate()))
	results := s.run(ctx)
	t, err := addUp(s.steps, results)
	if err != nil {
		return err
	}
	fmt.Printf("\nThe slowest tests, with what ran beside them:\n")
	t.ReportSlowest(os.Stdout, slowest)
	fmt.Printf("In all %s; processors %s\n", clock(time.Since(s.began)), clock(processorTime(results)))
	if !t.Report(os.Stdout) {
		return errFailed
	}
	return nil
}

// onlySteps are the steps whose names match, and those that they need.
func onlySteps(steps []*step, pattern string) ([]*step, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for i := len(steps); i > 0; i-- { // one pass for each step that may need another
		for _, x := range steps {
			if wanted[x.name] || re.MatchString(x.name) {
				wanted[x.name] = true
				for _, n := range x.needs {
					wanted[n] = true
				}
			}
		}
	}
	picked := slices.DeleteFunc(slices.Clone(steps), func(x *step) bool { return !wanted[x.name] })
	if len(picked) == 0 {
		return nil, fmt.Errorf("no step matches '%s'; -list lists them", pattern)
	}
	return picked, nil
}

func processorTime(results []result) (sum time.Duration) {
	for _, r := range results {
		sum += r.cpu
	}
	return sum
}

// addUp makes the tally of the results, in the order of the steps.
func addUp(steps []*step, results []result) (*tally.Tally, error) {
	t := &tally.Tally{}
	for _, x := range steps {
		for _, r := range results {
			if r.step != x {
				continue
			}
			if _, err := os.Stat(r.file); x.events && err == nil {
				if err := t.AddEvents(x.name, r.err == nil, r.file); err != nil {
					return nil, err
				}
				continue
			}
			t.AddCheck(x.name, r.err == nil, r.file)
		}
	}
	return t, nil
}

// setting is the value of an environment variable, or its default.
func setting(name, byDefault string) string {
	if s := os.Getenv(name); s != "" {
		return s
	}
	return byDefault
}

// testSteps are the steps of make test, in the order in which they are reported.
func testSteps(dir string, jobs int, say io.Writer) ([]*step, error) {
	programs, err := planPrograms(integrationPackages, "", "", shards)
	if err != nil {
		return nil, err
	}
	memory, err := machineMemory(jobs)
	if err != nil {
		return nil, err
	}
	steps := append(hostSteps(), unitSteps()...)
	steps = append(steps, &step{name: "test programs", needs: []string{"packages"}, expected: 30 * time.Second, run: func(ctx context.Context, j *job) error {
		return buildPrograms(ctx, j, filepath.Join(dir, "vm"), integrationPackages)
	}})
	for _, p := range programs {
		x := p.step(filepath.Join(dir, "vm"), memory, say)
		x.name, x.needs = "vm/"+p.name, []string{"kernel", "test programs"}
		steps = append(steps, x)
	}
	return append(steps,
		// The machine is killed under load, once for each filesystem under the store; make crash
		// has the other hours of it.
		&step{
			name: "kills", needs: []string{"kernel", "test programs"}, expected: time.Minute, machine: true,
			run: command("integration/crash/run", "-only", "^machine: kills$", "-rounds", "2", "-o", filepath.Join(dir, "crash")),
		},
		// Devices with two queues: they skip in the test kernel, which has one processor.
		&step{name: "smp", needs: []string{"packages"}, expected: 90 * time.Second, events: true, run: func(ctx context.Context, j *job) error {
			return runSMP(ctx, j, filepath.Join(dir, "smp.d"))
		}}), nil
}

// hostPackages are the Debian packages that the steps need on this machine.
var hostPackages = append([]string{"git", "make", "gcc", "libc6-dev", "shellcheck", "qemu-system-x86", "busybox-static", "cpio", "kmod", "xz-utils", "zstd"}, guestTools...)

// hostSteps prepare, and look at the source.
func hostSteps() []*step {
	return []*step{
		{name: "packages", expected: 5 * time.Second, run: func(ctx context.Context, j *job) error {
			return installPackages(ctx, j.log, hostPackages...)
		}},
		{name: "kernel", needs: []string{"packages"}, expected: time.Second, run: command("integration/kernel/build")},
		{name: "lint", needs: []string{"packages"}, expected: 40 * time.Second, run: lint},
		{name: "scripts", needs: []string{"packages"}, expected: 5 * time.Second, run: shellcheck},
		{name: "giouring", needs: []string{"packages"}, expected: 5 * time.Second, run: command("go", "vet", "-tags", "giouring", "-ldflags=-checklinkname=0", "./uring")},
		{name: "reproducible build", needs: []string{"test programs"}, expected: 10 * time.Second, run: reproducible},
		{name: "fuzz", needs: []string{"packages"}, expected: 60 * time.Second, run: func(ctx context.Context, j *job) error {
			seconds, err := time.ParseDuration(setting("VARVE_FUZZ", "2") + "s")
			if err != nil {
				return fmt.Errorf("VARVE_FUZZ: %w", err)
			}
			return fuzzBlindly(ctx, j, seconds)
		}},
	}
}

// shellcheck looks at all that is shell in the checkout.
func shellcheck(ctx context.Context, j *job) error {
	scripts, err := shellScripts(".")
	if err != nil {
		return err
	}
	return j.command(ctx, nil, "shellcheck", append([]string{"-x", "-S", "warning"}, scripts...)...)
}

// shellScripts lists the files below dir that begin as scripts of the shell.
func shellScripts(dir string) ([]string, error) {
	var scripts []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "out" || d.Name() == "bin" || d.Name() == "testdata"):
			return filepath.SkipDir
		case !d.Type().IsRegular() || strings.HasSuffix(path, ".go"):
			return nil
		}
		b, err := os.ReadFile(path)
		first, _, _ := strings.Cut(string(b), "\n")
		if strings.HasPrefix(first, "#!") && strings.HasSuffix(first, "sh") || strings.HasPrefix(first, "# shellcheck shell=") {
			scripts = append(scripts, path)
		}
		return err
	})
	if err == nil && len(scripts) == 0 {
		err = errors.New("no scripts")
	}
	return scripts, err
}

// reproducible builds the program once more, elsewhere: the same bytes.
func reproducible(ctx context.Context, j *job) error {
	elsewhere, err := os.MkdirTemp("", "varve-build.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(elsewhere)
	const script = `set -euo pipefail
		git ls-files -z | xargs -0 cp --parents -t "$1"
		make -s -C "$1" build
		sha256sum bin/varve "$1/bin/varve"
		cmp bin/varve "$1/bin/varve"`
	return j.command(ctx, nil, "bash", "-c", script, "reproducible", elsewhere)
}

// runSMP has integration/smp/run, whose events it copies to the step's.
func runSMP(ctx context.Context, j *job, dir string) error {
	events := j.out
	j.out = j.log
	err := j.command(ctx, nil, "integration/smp/run", "-o", dir)
	b, readErr := os.ReadFile(filepath.Join(dir, "smp.json"))
	if readErr != nil {
		return errors.Join(err, writeFailure(events, "varve/blockdev", "the kernel with two processors", fmt.Sprint(err)))
	}
	if _, e := events.Write(b); e != nil {
		return e
	}
	return err
}
