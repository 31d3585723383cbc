package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "results")
	tests := []string{"generic/001", "generic/002", "generic/003"}
	reopen := func() *book {
		t.Helper()
		b, err := openBook(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.close() })
		return b
	}
	b := reopen()
	for _, r := range []result{{tests[0], failed, 7, "two\nlines\tand a tab"}, {tests[1], notRun, 1, ""}, {tests[0], passed, 3, ""}} {
		if err := b.add(r); err != nil {
			t.Fatal(err)
		}
	}
	if b = reopen(); !slices.Equal(b.remaining(tests), tests[2:]) {
		t.Errorf("to run: %v, want %v", b.remaining(tests), tests[2:])
	}
	if r := b.get(tests[0]); r.outcome != passed || r.seconds != 3 {
		t.Errorf("%v, want the last outcome", r)
	}
	if err := b.forget(tests[:1]); err != nil {
		t.Fatal(err)
	}
	if b = reopen(); !slices.Equal(b.remaining(tests), []string{tests[0], tests[2]}) {
		t.Errorf("to run after one was forgotten: %v", b.remaining(tests))
	}
	if err := os.WriteFile(path, []byte("generic/001\tpast\t1\t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openBook(path); err == nil || !strings.Contains(err.Error(), path+":1") {
		t.Errorf("error %v, want one that names the file and the line", err)
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		loop, varve outcome
		ok          bool
		says        string
	}{
		{passed, passed, true, "ok"},
		{passed, failed, false, "passed on loop alone:\n  generic/001"},
		{passed, timeout, false, "passed on loop alone:\n  generic/001"},
		{passed, died, false, "passed on loop alone:\n  generic/001"},
		{passed, notRun, false, "passed on loop alone:\n  generic/001"},
		{failed, failed, true, "alike, and not passed:\n  generic/001"},
		{failed, passed, true, "other differences:\n  generic/001"},
		{failed, timeout, true, "other differences:\n  generic/001"},
		{notRun, notRun, true, "ok"},
		{passed, missing, false, "have not run"},
		{missing, passed, false, "have not run"},
	} {
		books := []*book{newBook(t), newBook(t)}
		for i, o := range []outcome{c.loop, c.varve} {
			if o == missing {
				continue
			}
			if err := books[i].add(result{"generic/001", o, 1, "the reason"}); err != nil {
				t.Fatal(err)
			}
		}
		cmp := compare([]string{"generic/001"}, []string{"loop", "varve"}, books)
		var b strings.Builder
		cmp.print(&b, "title")
		if cmp.ok() != c.ok || !strings.Contains(b.String(), c.says) {
			t.Errorf("loop %s, varve %s: ok is %v, want %v, and %q in\n%s", c.loop, c.varve, cmp.ok(), c.ok, c.says, b.String())
		}
		if md := cmp.markdown("title"); c.loop != passed && c.loop != missing && c.varve != missing && !strings.Contains(md, "the reason") {
			t.Errorf("loop %s, varve %s: no reason in\n%s", c.loop, c.varve, md)
		}
	}
	if got := byDirectory([]string{"generic/001", "generic/002", "ext4/003"}); got != "generic/001 002, ext4/003" {
		t.Errorf("names: %q", got)
	}
}

// install makes a directory like that of an installed xfstests, with the given ./check.
func install(t *testing.T, check string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"check":                    check,
		"tests/generic/group.list": "# a comment\n\n001 rw auto quick\n002 auto # not quick\n003 quick\n004 quick\n",
		"tests/ext4/group.list":    "001 auto quick\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSelectTests(t *testing.T) {
	dir := install(t, "")
	for _, c := range []struct{ fstyp, groups, patterns, want, err string }{
		{"ext4", "quick", "", "generic/001 generic/003 generic/004 ext4/001", ""},
		{"xfs", "quick", "", "generic/001 generic/003 generic/004", ""},
		{"ext4", "rw,auto", "", "generic/001 generic/002 ext4/001", ""},
		{"ext4", "ext4/quick", "", "ext4/001", ""},
		{"ext4", "quick", "generic/00[23] ext4/001", "generic/002 generic/003 ext4/001", ""},
		{"ext4", "slow", "", "", `group "slow"`},
		{"ext4", "quick", "generic/9*", "", `"generic/9*"`},
		{"ext4", "quick", "zfs/001", "", "zfs"},
	} {
		got, err := selectTests(dir, c.fstyp, c.groups, c.patterns)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: error %v", c, err)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	if _, err := selectTests(t.TempDir(), "ext4", "quick", ""); err == nil || !strings.Contains(err.Error(), "no installed xfstests") {
		t.Errorf("an empty directory: %v", err)
	}
}
