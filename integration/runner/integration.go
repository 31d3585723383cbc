package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// bootTime is what a machine takes beside its tests, about.
const bootTime = 8 * time.Second

// integrationPackages have tests that need devices or mounts.
var integrationPackages = []string{
	"./integration", "./integration/xfstests", "./blockdev", "./cmd/varve", "./cmd/varve/internal/daemon", "./fs", "./fs/loopdev", "./uring",
}

// guestTools are the Debian packages whose programs the tests in the test kernel call.
var guestTools = []string{"e2fsprogs", "xfsprogs", "btrfs-progs", "fio", "fuse3", "util-linux", "dmsetup", "qemu-utils", "nbdkit"}

const integrationUsage = `integration/run [-o DIR] [-run REGEXP] [-skip REGEXP] [PACKAGE...]
Runs tests in the test kernel: of the packages named ("./uring"; "./integration" are the integration tests), or of all
that need it. TestPressure… gets the machine that it needs. DIR gets NAME.json, test events, NAME.log and NAME.console of
each machine, and bin with the test programs.`

// integrationCommand is integration/run.
func integrationCommand(ctx context.Context, args []string) error {
	f := newFlags("integration/run")
	dir := f.String("o", "out/vm", "`directory` for output")
	run := f.String("run", "", "`regexp` of the tests to run, as of go test")
	skip := f.String("skip", "", "`regexp` of the tests to skip, as of go test")
	if err := parse(f, integrationUsage, args); err != nil {
		return err
	}
	packages := f.Args()
	if len(packages) == 0 {
		packages = integrationPackages
	}
	jobs, err := vmJobs()
	if err != nil {
		return err
	}
	shards := jobs
	if *run != "" {
		shards = 1
	}
	programs, err := planPrograms(packages, *run, *skip, shards)
	if err != nil {
		return err
	}
	memory, err := machineMemory(jobs)
	if err != nil {
		return err
	}
	if err := installPackages(ctx, os.Stderr, guestTools...); err != nil {
		return err
	}
	if *dir, err = filepath.Abs(*dir); err != nil {
		return err
	}
	b := &job{out: os.Stderr, log: os.Stderr} // what the compiler says
	if err := buildPrograms(ctx, b, *dir, packages); err != nil {
		return err
	}
	s := &schedule{jobs: jobs, machines: jobs, dir: *dir, say: os.Stdout}
	for _, p := range programs {
		if *run != "" {
			p.expected = 0 // not known
		}
		s.steps = append(s.steps, p.step(*dir, memory, os.Stdout))
	}
	for _, r := range s.run(ctx) {
		if r.err != nil {
			err = errFailed
		}
	}
	return err
}

// planPrograms decides which machines run which tests: the integration tests are spread over some
// machines, and those of memory pressure have one that is made for them. It is an error if the
// patterns leave no test.
func planPrograms(packages []string, run, skip string, shards int) ([]*program, error) {
	var programs []*program
	for _, pkg := range packages {
		names, err := functionsOf(pkg, "Test")
		if err != nil {
			return nil, err
		}
		tests, err := selectTests(names, run, skip)
		if err != nil {
			return nil, err
		}
		if len(tests) == 0 {
			continue
		}
		if pkg == "./integration" {
			programs = append(programs, planIntegration(tests, run, skip, shards)...)
			continue
		}
		programs = append(programs, &program{name: filepath.Base(pkg), pkg: pkg, run: run, skip: skip, expected: bootTime + 12*time.Second})
	}
	if len(programs) == 0 {
		what := "'" + run + "'"
		if skip != "" {
			what += " without '" + skip + "'"
		}
		return nil, fmt.Errorf("no test matches %s in %s", what, strings.Join(packages, ", "))
	}
	return programs, nil
}

// planIntegration spreads tests of ./integration over machines.
func planIntegration(tests []string, run, skip string, shards int) []*program {
	var ordinary, pressure []string
	for _, t := range tests {
		if strings.HasPrefix(t, "TestPressure") {
			pressure = append(pressure, t)
		} else {
			ordinary = append(ordinary, t)
		}
	}
	var programs []*program
	add := func(name string, list []string, pressure bool) {
		if len(list) == 0 {
			return
		}
		p := &program{name: name, pkg: "./integration", skip: skip, pressure: pressure, expected: bootTime}
		for _, t := range list {
			p.expected += time.Duration(secondsOf(t)) * time.Second
		}
		p.run = onlyThese(list)
		if _, whole, err := topLevel(run); err == nil && !whole {
			p.run = run // with its subtests
			if !pressure {
				p.skip = strings.Trim(skip+"|^TestPressure", "|")
			}
		}
		programs = append(programs, p)
	}
	for i, list := range spread(ordinary, shards) {
		add(fmt.Sprintf("integration-%d", i+1), list, false)
	}
	add("pressure", pressure, true)
	return programs
}

// onlyThese is a pattern of -run for just these tests.
func onlyThese(tests []string) string { return "^(" + strings.Join(tests, "|") + ")$" }

// buildPrograms builds the program under test, and the packages' test programs below dir/bin.
func buildPrograms(ctx context.Context, j *job, dir string, packages []string) error {
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	var integration bool
	for _, pkg := range packages {
		integration = integration || strings.HasPrefix(pkg, "./integration")
	}
	static := []string{"CGO_ENABLED=0"}
	if integration {
		if err := j.command(ctx, nil, "make", "-s", "build"); err != nil {
			return err
		}
		for _, tag := range []string{"failpoint", "nofeatures"} {
			if err := j.command(ctx, static, "go", "build", "-trimpath", "-buildvcs=false", "-tags", tag, "-o", filepath.Join(bin, "varve-"+tag), "./cmd/varve"); err != nil {
				return err
			}
		}
		program, err := filepath.Abs(filepath.Join(bin, "varve-earlier"))
		if err == nil {
			err = buildEarlier(ctx, j, program)
		}
		if err != nil {
			return err
		}
	}
	for _, pkg := range packages {
		if err := j.command(ctx, static, "go", "test", "-c", "-tags", "integration", "-o", programFile(dir, pkg), pkg); err != nil {
			return err
		}
	}
	return nil
}

func programFile(dir, pkg string) string {
	return filepath.Join(dir, "bin", filepath.Base(pkg)+".test")
}

// machineMemory is the memory in MiB that each of some machines may have: they share what this one
// has, and /dev/shm holds theirs.
func machineMemory(jobs int) (int, error) {
	available, err := availableMemory()
	if err != nil {
		return 0, err
	}
	return shareMemory(available, jobs)
}

func shareMemory(availableMiB, jobs int) (int, error) {
	each := availableMiB * 9 / 10 / jobs
	if each < 3072 {
		err := fmt.Errorf("%d MiB of memory for each of %d test machines: too little, 3072 are needed", each, jobs)
		if jobs > 1 {
			err = errors.Join(err, errors.New("VARVE_VM_JOBS=1 runs one at a time"))
		}
		return 0, err
	}
	return min(each, 8192), nil
}
