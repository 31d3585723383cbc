package tally

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func tallyOf(t *testing.T, commandOK bool, streams map[string]string) (string, bool) {
	t.Helper()
	var ta Tally
	for name, s := range streams {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := ta.AddEvents(name, commandOK, file); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	ok := ta.Report(&b)
	return b.String(), ok
}

const (
	passA = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
	skipA = `{"Action":"skip","Package":"p","Test":"TestA"}` + "\n"
	failA = `{"Action":"output","Package":"p","Test":"TestA","Output":"because\n"}` + "\n" +
		`{"Action":"fail","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
)

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name    string
		streams map[string]string
		ok      bool
		says    []string
	}{
		{"pass", map[string]string{"unit": passA}, true, []string{"1 passed, 0 failed, 0 skipped"}},
		{"fail", map[string]string{"unit": failA}, false, []string{"0 passed, 1 failed, 0 skipped", "because"}},
		{"skip elsewhere passed", map[string]string{"unit": skipA, "vm": passA}, true, []string{"1 passed, 0 failed, 1 skipped"}},
		{"skip everywhere", map[string]string{"unit": skipA, "vm": skipA}, false, []string{"0 passed, 2 failed, 0 skipped"}},
		{"nothing", map[string]string{"unit": ""}, false, []string{"ran no test"}},
		{"command fails", map[string]string{"unit": passA}, false, []string{"1 passed, 1 failed", "the command did"}},
		{"no build", map[string]string{"unit": `{"Action":"build-output","ImportPath":"p [p.test]","Output":"undefined: x\n"}` + "\n" +
			`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}` + "\n"}, false, []string{"undefined: x", "0 passed, 1 failed"}},
		{"package dies", map[string]string{"unit": passA + `{"Action":"fail","Package":"p"}` + "\n"}, false, []string{"1 passed, 1 failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, ok := tallyOf(t, c.name != "command fails", c.streams)
			if ok != c.ok {
				t.Errorf("success %v, want %v", ok, c.ok)
			}
			for _, w := range c.says {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in %s", w, out)
				}
			}
		})
	}
}

func TestSlowest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events")
	const events = `{"Action":"pass","Package":"p","Test":"TestQuick","Elapsed":0.5}
{"Action":"pass","Package":"p","Test":"TestSlow/part","Elapsed":70}
{"Action":"pass","Package":"p","Test":"TestSlow","Elapsed":72.5}
{"Action":"fail","Package":"p","Test":"TestMiddle","Elapsed":8}
`
	if err := os.WriteFile(file, []byte(events), 0o600); err != nil {
		t.Fatal(err)
	}
	var ta Tally
	if err := ta.AddEvents("unit", true, file); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	ta.ReportSlowest(&b, 2)
	if want := "    72.5 s  unit p TestSlow\n     8.0 s  unit p TestMiddle\n"; b.String() != want {
		t.Errorf("slowest tests:\n%swant\n%s", b.String(), want)
	}
}

// Where other steps were not run, a skip is counted as such, and a failure is still one.
func TestSomeSteps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "unit")
	skipB := strings.ReplaceAll(skipA, "TestA", "TestB")
	if err := os.WriteFile(file, []byte(failA+skipB), 0o600); err != nil {
		t.Fatal(err)
	}
	ta := Tally{SomeSteps: true}
	if err := ta.AddEvents("unit", false, file); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if ta.Report(&b) || !strings.Contains(b.String(), "0 passed, 1 failed, 1 skipped") || strings.Contains(b.String(), "nowhere") {
		t.Errorf("the report is\n%s", b.String())
	}
}

// TestComplaintsComeLast: what a failed test said is found at the end, however long the log of a
// daemon is that it printed too.
func TestComplaintsComeLast(t *testing.T) {
	events := failing("TestA/ext4", "=== RUN   TestA/ext4\n", "    a_test.go:12: harmless\n", "    a_test.go:20: 3 files, want 4\n",
		"    node_test.go:198: daemon's log:\n", strings.Repeat("        time=2026-01-01 level=INFO msg=ready\n", 300), "--- FAIL: TestA/ext4 (1.00s)\n")
	out, ok := tallyOf(t, false, map[string]string{"vm": events})
	if ok {
		t.Error("the tally is a success")
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	end := strings.Join(lines[max(0, len(lines)-4):], "\n")
	if want := "vm TestA/ext4: a_test.go:20: 3 files, want 4\n"; !strings.Contains(end, want) {
		t.Errorf("the report ends with\n%s\nwant %q among it", end, want)
	}
	if !strings.HasSuffix(end, "\n0 passed, 1 failed, 0 skipped") {
		t.Errorf("the report ends with\n%s", end)
	}
}

// failing returns the events of a test that fails after an output.
func failing(test string, output ...string) string {
	var b strings.Builder
	for _, o := range output {
		for line := range strings.Lines(o) {
			fmt.Fprintf(&b, `{"Action":"output","Package":"p","Test":%q,"Output":%q}`+"\n", test, line)
		}
	}
	fmt.Fprintf(&b, `{"Action":"fail","Package":"p","Test":%q}`+"\n", test)
	return b.String()
}
