package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// propertyTests are those that try as many random sequences as they are told.
const propertyTests = "Property|Model|Layer|CrashLong"

// exhaustiveTests of the engine try every moment, fault or damage of a history, by the thousand,
// one after the other. Step unit has all of them. Under the race detector, which makes them ten
// times slower, make crash has them; in make test it sees the same code in the tests of random
// histories, of linearizability, and in all others.
const exhaustiveTests = "^(TestKilledAtEveryPoint|TestKilledProcess|TestEvery.*|TestFuzzlike|TestFullLong|TestFaultLong|TestRelogLong|TestRotLong|TestCollectLong|" +
	"TestRefsCopyCut|TestFailedOpeningClosesFiles|TestContextEndsOpening|TestReleaseHasNone|TestDeepTree|TestLongJournal)$"

// unitSteps run the tests that need nothing of the test kernel.
func unitSteps() []*step {
	limit := func(d time.Duration) string { return "-timeout=" + patience(d).String() }
	return []*step{
		{name: "unit", needs: []string{"packages"}, expected: 6 * time.Minute, events: true, run: func(ctx context.Context, j *job) error {
			plain, property, err := testPackages(ctx)
			if err != nil {
				return err
			}
			args := []string{"test", "-json", "-count=1", limit(15 * time.Minute)}
			return errors.Join(j.command(ctx, nil, "go", slices.Concat(args, plain)...),
				j.command(ctx, nil, "go", slices.Concat(args, []string{"-skip", propertyTests}, property)...))
		}},
		{name: "property", needs: []string{"packages"}, expected: 2 * time.Minute, events: true, run: func(ctx context.Context, j *job) error {
			_, property, err := testPackages(ctx)
			if err != nil {
				return err
			}
			// With the order of the store's locks checked: see objstore/internal/lockorder.
			args := []string{"test", "-tags=lockorder", "-json", "-count=1", limit(15 * time.Minute), "-run", propertyTests}
			return j.command(ctx, []string{"VARVE_CRASH_CUTS=" + setting("VARVE_CUTS", "300")}, "go",
				slices.Concat(args, property, []string{"-rapid.checks=" + setting("VARVE_CHECKS", "300")})...)
		}},
		{name: "race", needs: []string{"packages"}, expected: 9 * time.Minute, events: true, run: func(ctx context.Context, j *job) error {
			return j.command(ctx, []string{"CGO_ENABLED=1"}, "go", "test", "-json", "-race", "-count=1", limit(20*time.Minute), "-skip", exhaustiveTests, "./...")
		}},
	}
}

// testPackages lists the module's packages, those with property tests apart.
func testPackages(ctx context.Context) (plain, property []string, err error) {
	const format = `{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}`
	cmd := exec.CommandContext(ctx, "go", "list", "-f", format, "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("list packages: %w: %s", err, stderr.Bytes())
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if slices.Contains(fields[1:], "pgregory.net/rapid") {
			property = append(property, fields[0])
		} else {
			plain = append(plain, fields[0])
		}
	}
	if len(property) == 0 {
		return nil, nil, errors.New("no package has property tests")
	}
	return plain, property, nil
}
