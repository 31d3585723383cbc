package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"varve/integration/tally"
)

func TestTopLevel(t *testing.T) {
	for _, c := range []struct {
		pattern   string
		matches   []string
		not       []string
		wholeOnly bool
	}{
		{"", []string{"TestA"}, nil, true},
		{"A", []string{"TestA", "TestAB"}, []string{"TestB"}, true},
		{"^(TestA|TestB)$", []string{"TestA", "TestB"}, []string{"TestAB"}, true},
		{"^TestA$/sub", []string{"TestA"}, []string{"TestAB"}, false},
		{"^TestA$|^TestB$/x|C", []string{"TestA", "TestB", "TestC"}, []string{"TestX"}, false},
		{`Test[/|]?A`, []string{"TestA"}, []string{"TestB"}, true},
	} {
		re, whole, err := topLevel(c.pattern)
		if err != nil || whole != c.wholeOnly {
			t.Errorf("%q: whole is %v, error %v", c.pattern, whole, err)
			continue
		}
		for _, n := range c.matches {
			if !re.MatchString(n) {
				t.Errorf("%q does not match %s", c.pattern, n)
			}
		}
		for _, n := range c.not {
			if re.MatchString(n) {
				t.Errorf("%q matches %s", c.pattern, n)
			}
		}
	}
	if _, _, err := topLevel("("); err == nil {
		t.Error("( is a pattern")
	}
}

func writeTests(t *testing.T, dir, source string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a_test.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newTree is a checkout with two packages of tests, in which the test stands.
func newTree(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	writeTests(t, "integration", `//go:build integration
package integration
import "testing"
func TestMain(m *testing.M) {}
func TestA(t *testing.T) {}
func TestB(t *testing.T) {}
func TestC(t *testing.T) {}
func TestPressureX(t *testing.T) {}
func Testing() {}
func (x) TestMethod(t *testing.T) {}
func FuzzIt(f *testing.F) {}
`)
	writeTests(t, "uring", `package uring
import "testing"
func TestRing(t *testing.T) {}
func TestCtx(t *testing.T) {}
`)
}

// What is to be run is divided between machines so that every test that is asked for is in just
// one.
func TestPlanPrograms(t *testing.T) {
	newTree(t)
	both := []string{"./integration", "./uring"}
	for _, c := range []struct {
		run, skip string
		packages  []string
		shards    int
		want      []string
	}{
		{"", "", both, 2, []string{"integration-1 ^(TestA|TestC)$ -", "integration-2 ^(TestB)$ -", "pressure ^(TestPressureX)$ -", "uring  -"}},
		{"", "", both, 1, []string{"integration-1 ^(TestA|TestB|TestC)$ -", "pressure ^(TestPressureX)$ -", "uring  -"}},
		{"C", "", both, 1, []string{"integration-1 ^(TestC)$ -", "uring C -"}},
		{"Pressure", "", both, 1, []string{"pressure ^(TestPressureX)$ -"}},
		{"", "TestA|TestCtx|Pressure", both, 1, []string{"integration-1 ^(TestB|TestC)$ -TestA|TestCtx|Pressure", "uring  -TestA|TestCtx|Pressure"}},
		{"TestA/x", "", both, 1, []string{"integration-1 TestA/x -^TestPressure"}},
		{"", "", []string{"./uring"}, 2, []string{"uring  -"}},
	} {
		programs, err := planPrograms(c.packages, c.run, c.skip, c.shards)
		if err != nil {
			t.Errorf("-run %q -skip %q: %v", c.run, c.skip, err)
			continue
		}
		var got []string
		for _, p := range programs {
			got = append(got, p.name+" "+p.run+" -"+p.skip)
			if p.pressure != (p.name == "pressure") {
				t.Errorf("machine %s: pressure is %v", p.name, p.pressure)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("-run %q -skip %q on %d machines:\n%s\nwant\n%s", c.run, c.skip, c.shards, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestPlanWithoutTests(t *testing.T) {
	newTree(t)
	for _, c := range [][2]string{{"NoSuch", ""}, {"", "Test"}, {"TestA", "^TestA$"}} {
		if _, err := planPrograms([]string{"./integration", "./uring"}, c[0], c[1], 2); err == nil || !strings.Contains(err.Error(), "no test matches") {
			t.Errorf("-run %q -skip %q: error %v", c[0], c[1], err)
		}
	}
	if _, err := planPrograms([]string{"./nowhere"}, "", "", 2); err == nil {
		t.Error("a package that is not there is no error")
	}
}

func TestFuzzTargets(t *testing.T) {
	newTree(t)
	writeTests(t, "uring/testdata", "package x; broken")
	targets, err := fuzzTargets(".", "")
	if err != nil || !slices.Equal(targets, []fuzzTarget{{"integration", "FuzzIt"}}) {
		t.Errorf("targets are %v, %v", targets, err)
	}
	if _, err := fuzzTargets(".", "NoSuch"); err == nil {
		t.Error("no target matches, and that is no error")
	}
}

func TestEndOfTime(t *testing.T) {
	for out, want := range map[string]bool{
		"--- FAIL: FuzzX (2.00s)\n    context deadline exceeded\nFAIL\n":                           true,
		"--- FAIL: FuzzX (2.00s)\n    Failing input written to x\n    context deadline exceeded\n": false,
		"--- FAIL: FuzzX (2.00s)\n    index out of range\n":                                        false,
	} {
		if endOfTime([]byte(out)) != want {
			t.Errorf("end of time is %v for %q", !want, out)
		}
	}
}

func TestShareMemory(t *testing.T) {
	for _, c := range []struct{ available, jobs, want int }{{20000, 2, 8192}, {10000, 2, 4500}, {6000, 2, 0}, {6000, 1, 5400}, {3000, 1, 0}} {
		got, err := shareMemory(c.available, c.jobs)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%d MiB for %d machines: %d, %v; want %d", c.available, c.jobs, got, err, c.want)
		}
	}
}

// What a test program writes becomes events, as it comes.
func TestEventWriter(t *testing.T) {
	var out bytes.Buffer
	var failed []string
	w, err := newEventWriter(t.Context(), &out, "varve/p", func(test string) { failed = append(failed, test) })
	if err != nil {
		t.Fatal(err)
	}
	const m = "\x16"
	for _, s := range []string{
		m + "=== RUN   TestA\n", "--- FAIL: TestFake (0.1s)\n", m + "--- PASS: TestA (0.01s)\n",
		m + "=== RUN   TestB\n" + m + "=== RUN   TestB/sub\n", m + "--- FAIL: TestB (0.02s)\n    " + m + "--- FAIL: TestB/sub (0.01s)\n",
		m + "=== RUN   TestC\n" + m + "--- SKIP: TestC (0.00s)\n", m + "FAIL\n",
	} {
		if _, err := w.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	count, err := w.close()
	if err != nil || count.passed != 1 || count.failed != 1 || count.skipped != 1 || count.tests() != 3 {
		t.Errorf("the stream comes to %+v, %v", count, err)
	}
	slices.Sort(failed)
	if !slices.Equal(failed, []string{"TestB", "TestB/sub"}) {
		t.Errorf("failed tests: %v", failed)
	}
	if err := writeFailure(&out, "varve/p", "the machine", "it \"died\"\n"); err != nil {
		t.Fatal(err)
	}
	var last tally.Event
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, l := range lines {
		if err := json.Unmarshal([]byte(l), &last); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
	}
	if last.Action != "fail" || last.Test != "the machine" {
		t.Errorf("the last event is %+v", last)
	}
}
