package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"varve/integration/tally"
)

// The test's own program stands for the runner that program.start calls as integration/vm/run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "vm" {
		os.Exit(runVM(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// A machine is a success only if its tests ran and passed, and each failure is one in the tally,
// just once.
func TestProgram(t *testing.T) {
	const pass = `printf '\026=== RUN   TestA\n\026--- PASS: TestA (0.01s)\n\026PASS\n'`
	const fail = `printf '\026=== RUN   TestA\n\026--- FAIL: TestA (0.01s)\n\026FAIL\n'; exit 1`
	for _, c := range []struct {
		name, script, boot string
		says               string // the error
		closing            string // of the tally
	}{
		{name: "pass", script: pass, closing: "1 passed, 0 failed, 0 skipped"},
		{name: "fail", script: fail, says: "1 of 1 tests failed", closing: "0 passed, 1 failed, 0 skipped"},
		{name: "no test", script: `printf '\026PASS\n'`, says: "no test ran", closing: "0 passed, 1 failed, 0 skipped"},
		{name: "dies", script: pass + "; exit 2", says: "no test said that it failed", closing: "1 passed, 1 failed, 0 skipped"},
		{name: "oops", script: fail, boot: "echo 'Oops: 0000'", says: "1 of 1 tests failed", closing: "0 passed, 2 failed, 0 skipped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			newFakeVM(t, "true")
			t.Setenv("FAKE_BOOT", c.boot)
			top, dir := t.TempDir(), t.TempDir()
			t.Chdir(top)
			for _, d := range []string{filepath.Join(top, "pkg"), filepath.Join(dir, "bin")} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(programFile(dir, "./pkg"), []byte("#!/bin/bash\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			p := &program{name: "pkg", pkg: "./pkg"}
			r := p.step(dir, 1024, &said).start(t.Context(), dir)
			if text := errorText(r.err); !strings.Contains(text, c.says) || (text == "") != (c.says == "") {
				t.Errorf("error %q, want %q", text, c.says)
			}
			if strings.Contains(said.String(), "FAILED TestA") != strings.Contains(c.script, "FAIL") {
				t.Errorf("it says %q", said.String())
			}
			var ta tally.Tally
			if err := ta.AddEvents("vm", r.err == nil, r.file); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			ta.Report(&b)
			if !strings.HasSuffix(b.String(), c.closing+"\n") {
				t.Errorf("the tally is\n%swant %s", b.String(), c.closing)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	lists := spread([]string{"TestB", "TestFilesystemOnDevice", "TestA", "TestC"}, 2)
	if len(lists) != 2 || strings.Join(lists[0], " ") != "TestFilesystemOnDevice" || strings.Join(lists[1], " ") != "TestB TestA TestC" {
		t.Errorf("tests are spread as %v", lists)
	}
}
