package main

import (
	"fmt"
	"io"
	"strings"
)

// comparison sets the outcomes of the targets beside each other. The first target is the reference.
type comparison struct {
	targets []string
	rows    []row
}

// row is one test, with its result on each target.
type row struct {
	test    string
	results []result
}

func compare(tests, targets []string, books []*book) comparison {
	c := comparison{targets: targets}
	for _, t := range tests {
		r := row{test: t}
		for _, b := range books {
			r.results = append(r.results, b.get(t))
		}
		c.rows = append(c.rows, r)
	}
	return c
}

// worse: it passes on the reference and not on another target. With a single target: it does not
// pass there.
func (r row) worse() bool {
	if len(r.results) == 1 {
		o := r.results[0].outcome
		return o != passed && o != notRun
	}
	for _, other := range r.results[1:] {
		if r.results[0].outcome == passed && other.outcome != passed {
			return true
		}
	}
	return false
}

func (r row) differs() bool {
	for _, other := range r.results[1:] {
		if other.outcome != r.results[0].outcome {
			return true
		}
	}
	return false
}

func (r row) has(o outcome) bool {
	for _, x := range r.results {
		if x.outcome == o {
			return true
		}
	}
	return false
}

// ok: every test has run everywhere, and none is worse.
func (c comparison) ok() bool {
	for _, r := range c.rows {
		if r.worse() || r.has(missing) {
			return false
		}
	}
	return true
}

func (c comparison) count(target int, o outcome) int {
	n := 0
	for _, r := range c.rows {
		if r.results[target].outcome == o {
			n++
		}
	}
	return n
}

func (c comparison) print(w io.Writer, title string) {
	fmt.Fprintf(w, "\n%s\n\n%-10s", title, "")
	for _, o := range outcomes {
		fmt.Fprintf(w, " %8s", o)
	}
	fmt.Fprintln(w)
	for i, t := range c.targets {
		fmt.Fprintf(w, "%-10s", t)
		for _, o := range outcomes {
			fmt.Fprintf(w, " %8d", c.count(i, o))
		}
		fmt.Fprintln(w)
	}
	c.list(w, "not passed", func(r row) bool { return len(c.targets) == 1 && r.worse() })
	c.list(w, "passed on "+c.targets[0]+" alone", func(r row) bool {
		return len(c.targets) > 1 && r.worse() && !r.has(missing)
	})
	c.list(w, "other differences", func(r row) bool { return r.differs() && !r.worse() && !r.has(missing) })
	c.list(w, "alike, and not passed", func(r row) bool {
		return len(c.targets) > 1 && !r.differs() && !r.has(passed) && !r.has(notRun) && !r.has(missing)
	})
	switch {
	case c.ok():
		fmt.Fprintf(w, "\nok\n")
	case len(c.targets) > 1:
		fmt.Fprintf(w, "\nFAILED: tests passed on %s alone, or have not run\n", c.targets[0])
	default:
		fmt.Fprintf(w, "\nFAILED\n")
	}
}

func (c comparison) list(w io.Writer, title string, want func(row) bool) {
	first := true
	for _, r := range c.rows {
		if !want(r) {
			continue
		}
		if first {
			fmt.Fprintf(w, "\n%s:\n", title)
			first = false
		}
		for i, x := range r.results {
			name := r.test
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "  %-12s %-6s %s\n", name, c.targets[i], strings.TrimSpace(string(x.outcome)+" "+x.reason))
		}
	}
}
