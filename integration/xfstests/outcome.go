package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// outcome is what became of one test.
type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	notRun  outcome = "notrun"  // something that the test needs is not there
	timeout outcome = "timeout" // beyond its time limit
	died    outcome = "died"    // the machine ended under it
	missing outcome = "missing" // has not been run yet
)

var outcomes = []outcome{passed, failed, notRun, timeout, died, missing}

// result is one line of a book.
type result struct {
	test    string
	outcome outcome
	seconds int
	reason  string // one line; what ./check says
}

// book is the results file of one target: a line "TEST OUTCOME SECONDS REASON", with tabs, for each
// outcome. The last line of a test counts. It is appended to, so that whoever kills a run loses the
// running test alone.
type book struct {
	mu      sync.Mutex
	file    *os.File
	results map[string]result
}

func openBook(path string) (*book, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	b := &book{file: f, results: map[string]result{}}
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		r, err := parseResult(in.Text())
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		b.results[r.test] = r
	}
	if err := in.Err(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

func parseResult(line string) (result, error) {
	w := strings.SplitN(line, "\t", 4)
	if len(w) != 4 || !slices.Contains(outcomes, outcome(w[1])) {
		return result{}, fmt.Errorf("%q is no line TEST OUTCOME SECONDS REASON", line)
	}
	seconds, err := strconv.Atoi(w[2])
	if err != nil {
		return result{}, fmt.Errorf("seconds %q: %w", w[2], err)
	}
	return result{w[0], outcome(w[1]), seconds, w[3]}, nil
}

func (b *book) add(r result) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.results[r.test] = r
	reason := strings.Join(strings.Fields(r.reason), " ")
	if _, err := fmt.Fprintf(b.file, "%s\t%s\t%d\t%s\n", r.test, r.outcome, r.seconds, reason); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// get returns the outcome of a test; missing, if there is none.
func (b *book) get(test string) result {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.results[test]; ok {
		return r
	}
	return result{test: test, outcome: missing}
}

// forget revokes the tests' outcomes, by appending lines to that effect.
func (b *book) forget(tests []string) error {
	for _, t := range tests {
		if b.get(t).outcome == missing {
			continue
		}
		if err := b.add(result{test: t, outcome: missing}); err != nil {
			return err
		}
	}
	return nil
}

// remaining are those of the tests that have no outcome.
func (b *book) remaining(tests []string) []string {
	var rest []string
	for _, t := range tests {
		if b.get(t).outcome == missing {
			rest = append(rest, t)
		}
	}
	return rest
}

func (b *book) close() error { return b.file.Close() }
