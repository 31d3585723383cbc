package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestAffected(t *testing.T) {
	tests := []string{"a_test.go"}
	packages := []goPackage{
		{ImportPath: "varve/base", Dir: "base", TestGoFiles: tests},
		{ImportPath: "varve/base/low", Dir: "base/low", TestGoFiles: tests},
		{ImportPath: "varve/mid", Dir: "mid", Imports: []string{"fmt", "varve/base"}},
		{ImportPath: "varve/top", Dir: "top", Imports: []string{"varve/mid"}, TestGoFiles: tests},
		{ImportPath: "varve/other", Dir: "other", XTestImports: []string{"varve/base/low"}, XTestGoFiles: tests},
	}
	for _, c := range []struct {
		name  string
		files []string
		want  string
	}{
		{"nothing", nil, "base base/low mid top other"},
		{"the module", []string{"go.sum"}, "base base/low mid top other"},
		{"what others import", []string{"base/x.go"}, "base top"},
		{"what a test imports", []string{"base/low/x.go"}, "base/low other"},
		{"test data", []string{"top/testdata/deep/file"}, "top"},
		{"no package", []string{"README.md", "docs/x.md"}, ""},
	} {
		paths, why := affected(packages, c.files)
		if got := strings.ReplaceAll(strings.Join(paths, " "), "varve/", ""); got != c.want || why == "" {
			t.Errorf("%s: tests of %q, want %q; it says %q", c.name, got, c.want, why)
		}
	}
}

func TestChangedFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e@example.org"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		got, err := changedFiles(t.Context())
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("changed files %q, %v; want %q", got, err, want)
		}
	}
	git("init", "-q", "-b", "main")
	write("a")
	git("add", ".")
	git("commit", "-q", "-m", "a")
	expect()
	git("checkout", "-q", "-b", "branch")
	write("b")
	git("add", ".")
	git("commit", "-q", "-m", "b")
	write("name with space")
	if err := os.WriteFile("a", []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("a", "b", "name with space")
	git("branch", "-q", "-D", "main")
	expect("a", "name with space")
}
