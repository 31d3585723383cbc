package main

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// transcript reads what the script guest and, through it, ./check say, as it comes. ./check writes
// a test's name when it begins and the rest of the line at its end; what it has to complain of
// follows on further lines:
//
//	generic/001         26s
//	generic/003         [not run] atime related mount options have no effect on fuse
//	generic/034        - output mismatch (see /tmp/…/034.out.bad)
//	    --- tests/generic/034.out
//	_check_dmesg: something found in dmesg (see /tmp/…/034.dmesg)
//	Failures: generic/034
//
// So a test's outcome is known when the next test begins or the batch ends. Lines of guest itself
// begin with "@@".
type transcript struct {
	tests  map[string]bool // names to look for
	result func(result)
	marker func(words []string) // of a line "@@ WORD…"

	line  []byte
	block []string // the lines of the test in hand
	test  string   // "": none in hand
	began time.Time
}

func newTranscript(tests []string, result func(result), marker func([]string)) *transcript {
	t := &transcript{tests: map[string]bool{}, result: result, marker: marker}
	for _, name := range tests {
		t.tests[name] = true
	}
	return t
}

func (t *transcript) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			t.line = append(t.line, rest...)
			t.peek()
			break
		}
		line := string(append(t.line, rest[:i]...))
		t.line, rest = t.line[:0], rest[i+1:]
		t.end(strings.TrimRight(line, "\r"))
	}
	return len(p), nil
}

// peek looks at an unfinished line: a test begins when its name and a space are there.
func (t *transcript) peek() {
	if name, _, ok := strings.Cut(string(t.line), " "); ok && t.tests[name] {
		t.begin(name)
	}
}

func (t *transcript) begin(name string) {
	if t.test == name {
		return
	}
	t.finish()
	t.test, t.began = name, time.Now()
}

func (t *transcript) end(line string) {
	if words, ok := strings.CutPrefix(line, "@@ "); ok {
		if w := strings.Fields(words); len(w) > 0 {
			if w[0] == "batch" || w[0] == "end" {
				t.finish()
			}
			t.marker(w)
		}
		return
	}
	if names, ok := strings.CutPrefix(line, "Failures: "); ok {
		t.finish()
		t.failures(strings.Fields(names))
		return
	}
	for _, end := range []string{"Ran: ", "Not run: ", "Interrupted!", "Passed all ", "SECTION "} {
		if strings.HasPrefix(line, end) {
			t.finish()
			return
		}
	}
	if name, _, _ := strings.Cut(line, " "); t.tests[name] {
		t.begin(name)
		line = strings.TrimPrefix(line, name)
	}
	if t.test != "" {
		t.block = append(t.block, line)
	}
}

// failures are those that ./check counts at the end of a batch. It is right, whatever was read
// above.
func (t *transcript) failures(tests []string) {
	for _, name := range tests {
		if t.tests[name] {
			t.result(result{test: name, outcome: failed, reason: "./check counts it as failed"})
		}
	}
}

// finish judges the test in hand.
func (t *transcript) finish() {
	if t.test == "" {
		return
	}
	r := judge(t.block)
	r.test = t.test
	if r.outcome != passed {
		r.seconds = int(time.Since(t.began).Seconds())
	}
	t.test, t.block = "", nil
	t.result(r)
}

// abandon returns the running test, whose end will not be seen, or "" if there is none.
func (t *transcript) abandon() (test string, seconds int) {
	test, seconds = t.test, int(time.Since(t.began).Seconds())
	t.test, t.block, t.line = "", nil, t.line[:0]
	return test, seconds
}

var (
	// The time of an earlier run may precede: "26s ...  12s".
	lastTime   = regexp.MustCompile(`^\s*\d+s \.\.\. `)
	passLine   = regexp.MustCompile(`^\s*(\d+)s\s*$`)
	where      = regexp.MustCompile(`\(see \S+( for details)?\)`) // in the machine that is gone
	complaints = regexp.MustCompile(`^\[failed|^\[dumped core|^\[expunged|^- output mismatch|^- no such test|` +
		`^no qualified output|\(see .*\)|^_check_|^_repair_`)
)

// judge returns the outcome and the reason from the lines of a test's block, without its name.
func judge(block []string) result {
	r := result{outcome: failed}
	for i, line := range block {
		if i == 0 {
			line = lastTime.ReplaceAllString(line, "")
		}
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "[not run]"):
			return result{outcome: notRun, reason: strings.TrimSpace(strings.TrimPrefix(trimmed, "[not run]"))}
		case i > 0 && strings.HasPrefix(line, "    "): // an excerpt of the difference
			if d := strings.TrimSpace(line); r.reason != "" && (d[0] == '+' || d[0] == '-') && !strings.HasPrefix(d, "---") &&
				!strings.HasPrefix(d, "+++") && len(r.reason) < 300 {
				r.reason += "; " + d
			}
		case complaints.MatchString(trimmed):
			if what := strings.TrimSpace(where.ReplaceAllString(trimmed, "")); what != "" {
				r.reason = strings.TrimPrefix(r.reason+"; "+what, "; ")
			}
		case passLine.MatchString(line):
			r.seconds, _ = strconv.Atoi(passLine.FindStringSubmatch(line)[1])
			r.outcome = passed
		}
	}
	if r.reason != "" {
		r.outcome = failed
	} else if r.outcome == failed {
		r.reason = strings.TrimSpace(strings.Join(block, " "))
	}
	return r
}
