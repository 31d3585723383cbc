package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// outcome is what became of one test.
type outcome struct {
	state  string // one of states
	reason string // of all but passed; one line
}

const (
	passed   = "passed"
	failed   = "failed"
	notRun   = "not run"   // something that the test needs is not there
	timedOut = "timed out" // and its machine was killed
)

var states = []string{passed, failed, notRun, timedOut}

// outcomes are one server's, by test.
type outcomes map[string]outcome

// readOutcomes reads a file of lines "TEST STATE REASON". The last line of a test counts.
func readOutcomes(path string) (outcomes, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	o := outcomes{}
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		f := strings.SplitN(line, "\t", 3)
		if len(f) != 3 || !slices.Contains(states, f[1]) {
			return nil, fmt.Errorf("%s:%d: %q is no line TEST STATE REASON", path, i+1, line)
		}
		o[f[0]] = outcome{state: f[1], reason: f[2]}
	}
	return o, nil
}

// tests returns the tests of all runs, in order.
func tests(runs []outcomes) []string {
	var all []string
	for _, r := range runs {
		for t := range r {
			all = append(all, t)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
