package tally

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Event is one line of `go test -json`; go doc test2json has the fields.
type Event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Output      string
	FailedBuild string
	Elapsed     float64 // seconds
}

// id names one test in one step.
type id struct{ step, pkg, test string }

// step is what became of one step.
type step struct {
	name                    string
	passed, failed, skipped int
}

// duration is how long one test took, in one step.
type duration struct {
	id   id
	took time.Duration
}

// Tally holds the results of steps. Its zero value has none.
type Tally struct {
	// SomeSteps says that other steps, in which a skipped test may pass, were not run: then a skip
	// is no failure.
	SomeSteps bool

	steps    []*step
	tests    []duration         // of top level
	passes   map[[2]string]bool // package and test, in whatever step
	skips    []id
	failures []failure
	output   map[id][]string
}

type failure struct {
	id  id
	why string
	log []string
}

// AddCheck adds a step that is no Go test; file is its log.
func (t *Tally) AddCheck(name string, ok bool, file string) {
	s := &step{name: name}
	t.steps = append(t.steps, s)
	if ok {
		s.passed = 1
		return
	}
	s.failed = 1
	b, err := os.ReadFile(file)
	if err != nil {
		b = []byte(err.Error())
	}
	lines := strings.SplitAfter(string(b), "\n")
	t.failures = append(t.failures, failure{id{step: name}, "failed", lines[max(0, len(lines)-100):]})
}

// AddEvents adds the stream of test events in file. A stream without a single test is a failure,
// and so is one whose command failed (ok is false) without an event that says why.
func (t *Tally) AddEvents(name string, ok bool, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open test events: %w", err)
	}
	defer func() { _ = f.Close() }()
	s := &step{name: name}
	t.steps = append(t.steps, s)
	if t.passes == nil {
		t.passes, t.output = map[[2]string]bool{}, map[id][]string{}
	}
	failedIn := map[string]bool{} // packages with a failed test
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e Event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			continue // not an event: what go itself says beside its stream
		}
		t.add(s, e, failedIn)
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	switch {
	case s.passed+s.failed+s.skipped == 0:
		s.failed++
		t.failures = append(t.failures, failure{id: id{step: name}, why: "ran no test at all"})
	case !ok && s.failed == 0:
		s.failed++
		t.failures = append(t.failures, failure{id: id{step: name}, why: "no test failed, but the command did; see " + file})
	}
	return nil
}

func (t *Tally) add(s *step, e Event, failedIn map[string]bool) {
	if e.Package == "" {
		e.Package = strings.Fields(e.ImportPath + " ?")[0]
	}
	k := id{s.name, e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		t.output[k] = append(t.output[k], e.Output)
	case "pass":
		if e.Test != "" {
			s.passed++
			t.passes[[2]string{e.Package, e.Test}] = true
			t.time(k, e)
		}
	case "skip":
		if e.Test != "" { // a package without test files skips too
			s.skipped++
			t.skips = append(t.skips, k)
		}
	case "fail":
		if e.Test != "" {
			failedIn[e.Package] = true
			t.time(k, e)
		} else if failedIn[e.Package] {
			return // counted already, by its tests
		}
		s.failed++
		log := t.output[k]
		if e.FailedBuild != "" {
			log = append(log, t.output[id{s.name, strings.Fields(e.FailedBuild)[0], ""}]...)
		}
		t.failures = append(t.failures, failure{k, "failed", log})
	}
}

func (t *Tally) time(k id, e Event) {
	if !strings.Contains(e.Test, "/") {
		t.tests = append(t.tests, duration{k, time.Duration(e.Elapsed * float64(time.Second))})
	}
}

// ReportSlowest writes the n tests that took the longest.
func (t *Tally) ReportSlowest(w io.Writer, n int) {
	slices.SortStableFunc(t.tests, func(a, b duration) int { return int(b.took - a.took) })
	for _, d := range t.tests[:min(n, len(t.tests))] {
		fmt.Fprintf(w, "%8.1f s  %s %s %s\n", d.took.Seconds(), d.id.step, d.id.pkg, d.id.test)
	}
}

// Report writes the failures, a table, what each failure said, and the closing line. False: there
// was a failure.
func (t *Tally) Report(w io.Writer) bool {
	expected := 0
	for _, k := range t.skips {
		if t.SomeSteps || t.passes[[2]string{k.pkg, k.test}] {
			expected++
			continue
		}
		t.failures = append(t.failures, failure{k, "skipped, and passed nowhere else", t.output[k]})
		for _, s := range t.steps {
			if s.name == k.step {
				s.skipped--
				s.failed++
			}
		}
	}
	for _, f := range t.failures {
		fmt.Fprintf(w, "\n=== %s: %s\n", strings.Join(nonEmpty(f.id.step, f.id.pkg, f.id.test), " "), f.why)
		for _, l := range f.log[max(0, len(f.log)-200):] {
			fmt.Fprint(w, strings.TrimRight(l, "\n"), "\n")
		}
	}
	fmt.Fprintf(w, "\n%-24s %8s %8s %8s\n", "", "passed", "failed", "skipped")
	var sum step
	for _, s := range t.steps {
		fmt.Fprintf(w, "%-24s %8d %8d %8d\n", s.name, s.passed, s.failed, s.skipped)
		sum.passed += s.passed
		sum.failed += s.failed
		sum.skipped += s.skipped
	}
	switch {
	case expected > 0 && t.SomeSteps:
		fmt.Fprintf(w, "the steps in which the %d skipped tests may pass were not run\n", expected)
	case expected > 0:
		fmt.Fprintf(w, "each of the %d skipped tests passed in another step\n", expected)
	}
	for _, f := range t.failures {
		for _, l := range f.complaints() {
			fmt.Fprintf(w, "%s: %s\n", strings.Join(nonEmpty(f.id.step, f.id.test), " "), l)
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", sum.passed, sum.failed, sum.skipped)
	return sum.failed == 0
}

// complaint is a line of a test's Log, Error or Fatal. What does not fail the test looks the same.
var complaint = regexp.MustCompile(`^ +(\S+\.go:[0-9]+: .+)`)

// complaints returns the last lines that the test said by itself. They are short, and the log of a
// daemon that is printed after them, which may be longer than what is kept of an output, is not.
func (f *failure) complaints() []string {
	const most, longest = 5, 500
	var list []string
	for _, l := range f.log {
		if m := complaint.FindStringSubmatch(l); m != nil {
			list = append(list, m[1][:min(len(m[1]), longest)])
		}
	}
	return list[max(0, len(list)-most):]
}

func nonEmpty(parts ...string) []string {
	var r []string
	for _, p := range parts {
		if p != "" {
			r = append(r, p)
		}
	}
	return r
}
