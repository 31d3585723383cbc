package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const fuzzUsage = `make fuzz [FUZZTIME=5m] [RUN='regexp']
Runs each fuzz target for a while, guided by coverage. Go keeps what it finds in the package's testdata/fuzz.`

// fuzzTarget is one function of a package.
type fuzzTarget struct{ dir, name string }

// fuzzCommand is make fuzz.
func fuzzCommand(ctx context.Context, args []string) error {
	f := newFlags("fuzz")
	each := f.Duration("time", 30*time.Second, "`time` for each target")
	run := f.String("run", "", "`regexp` of the targets")
	if err := parseNoArguments(f, fuzzUsage, args); err != nil {
		return err
	}
	targets, err := fuzzTargets(".", *run)
	if err != nil {
		return err
	}
	j := &job{out: os.Stdout, log: os.Stderr}
	for _, t := range targets {
		fmt.Println(t.dir, t.name)
		err := j.command(ctx, nil, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), "-fuzzminimizetime", "5s", "./"+t.dir)
		if err != nil {
			return fmt.Errorf("%s %s: %w", t.dir, t.name, err)
		}
	}
	return nil
}

// fuzzTargets lists the fuzz targets below top whose names match run. It is an error if there are
// none.
func fuzzTargets(top, run string) ([]fuzzTarget, error) {
	re, err := regexp.Compile(run)
	if err != nil {
		return nil, err
	}
	var targets []fuzzTarget
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && path != top || slices.Contains([]string{"out", "bin", "testdata"}, d.Name()) {
			return filepath.SkipDir
		}
		if tests, _ := filepath.Glob(filepath.Join(path, "*_test.go")); len(tests) == 0 {
			return nil
		}
		names, err := functionsOf(path, "Fuzz")
		for _, n := range names {
			if re.MatchString(n) {
				targets = append(targets, fuzzTarget{path, n})
			}
		}
		return err
	})
	if err == nil && len(targets) == 0 {
		err = fmt.Errorf("no fuzz target matches '%s'", run)
	}
	return targets, err
}

// fuzzBlindly tries each target for a while, in one worker, since another step runs beside it, and
// without instrumentation: instrumented programs take minutes to build.
func fuzzBlindly(ctx context.Context, j *job, each time.Duration) error {
	targets, err := fuzzTargets(".", "")
	if err != nil {
		return err
	}
	programs, err := os.MkdirTemp("", "varve-fuzz.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(programs)
	var errs []error
	built := ""
	for _, t := range targets {
		program := filepath.Join(programs, strings.ReplaceAll(t.dir, "/", "_"))
		if built != program {
			if err := j.command(ctx, nil, "go", "test", "-c", "-o", program, "./"+t.dir); err != nil {
				return err
			}
			built = program
		}
		fmt.Fprintln(j.log, t.dir, t.name)
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.fuzz", "^"+t.name+"$", "-test.fuzztime", each.String(),
			"-test.fuzzminimizetime", "1s", "-test.parallel", "1", "-test.fuzzcachedir", filepath.Join(programs, "cache"), "-test.timeout", patience(5*time.Minute).String())
		cmd.Dir = t.dir
		cmd.Stdout = io.MultiWriter(j.log, &out)
		cmd.Stderr = cmd.Stdout
		if err := j.do(cmd); err != nil && !endOfTime(out.Bytes()) {
			errs = append(errs, fmt.Errorf("%s %s: %w", t.dir, t.name, err))
		}
	}
	return errors.Join(errs...)
}

var deadlineLine = regexp.MustCompile(`(?m)^ *context deadline exceeded$`)

// endOfTime reports whether a target failed only because its time was over, as it may before Go
// 1.27: go.dev/issue/75804.
func endOfTime(out []byte) bool {
	return deadlineLine.Match(out) && !bytes.Contains(out, []byte("Failing input"))
}
