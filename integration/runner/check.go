package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const checkUsage = `make check [ALL=1]
Builds, vets and lints, and runs the unit tests of what has changed, and of what imports it: against where the branch left
main, with what is not committed. If nothing has, or with ALL=1, all of them. The exhaustive tests of the engine are left to
make test.`

// checkCommand is make check.
func checkCommand(ctx context.Context, args []string) error {
	f := newFlags("check")
	all := f.Bool("all", false, "test everything")
	if err := parseNoArguments(f, checkUsage, args); err != nil {
		return err
	}
	packages, err := listPackages(ctx)
	if err != nil {
		return err
	}
	files, err := changedFiles(ctx)
	if err != nil {
		return err
	}
	tested, why := affected(packages, files)
	if *all {
		tested, why = allOf(packages), "all packages"
	}
	dir, err := filepath.Abs("out/check")
	if err != nil {
		return err
	}
	fmt.Printf("unit tests of %s; logs in out/check\n", why)
	s := &schedule{jobs: min(runtime.NumCPU(), 2), dir: dir, say: os.Stdout, steps: checkSteps(tested)}
	results := s.run(ctx)
	t, err := addUp(s.steps, results)
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.err != nil {
			t.SomeSteps = true // tests of devices run in make test
			t.Report(os.Stdout)
			return errFailed
		}
	}
	fmt.Printf("ok, in %s\n", clock(time.Since(s.began)))
	return nil
}

func checkSteps(tested []string) []*step {
	steps := []*step{
		{name: "build", expected: 10 * time.Second, run: command("go", "build", "./...")},
		{name: "vet", needs: []string{"build"}, expected: 10 * time.Second, run: command("go", "vet", "-tags", "integration", "./...")},
		{name: "lint", needs: []string{"build"}, expected: 30 * time.Second, run: lint},
	}
	if len(tested) > 0 {
		steps = append(steps, &step{name: "unit", needs: []string{"build"}, expected: time.Minute, events: true, run: func(ctx context.Context, j *job) error {
			return j.command(ctx, nil, "go", slices.Concat([]string{"test", "-json", "-skip", exhaustiveTests, "-timeout=" + patience(10*time.Minute).String()}, tested)...)
		}})
	}
	return steps
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath                         string
	Dir                                string
	Imports, TestImports, XTestImports []string
	TestGoFiles, XTestGoFiles          []string
}

func listPackages(ctx context.Context) ([]goPackage, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,TestGoFiles,XTestGoFiles", "./...")
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	top, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		if p.Dir, err = filepath.Rel(top, p.Dir); err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
}

// changedFiles lists the files that differ from those of main where this branch left it: committed
// since, or not yet. Without a branch main, it lists what is not committed.
func changedFiles(ctx context.Context) ([]string, error) {
	git := func(args ...string) ([]string, error) {
		b, err := exec.CommandContext(ctx, "git", args...).Output()
		if err != nil {
			return nil, fmt.Errorf("git %s: %w", args[0], err)
		}
		return strings.FieldsFunc(string(b), func(r rune) bool { return r == 0 || r == '\n' }), nil
	}
	base := "HEAD"
	if fork, err := git("merge-base", "HEAD", "main"); err == nil && len(fork) == 1 {
		base = fork[0]
	}
	changed, err := git("diff", "--name-only", "-z", base)
	if err != nil {
		return nil, err
	}
	added, err := git("ls-files", "--others", "--exclude-standard", "-z")
	return append(changed, added...), err
}

// affected picks the packages to test for a change of files, and says in words which they are:
// those that own a file, which is the one in the nearest directory above it, and those that import
// one of them, also through others or in tests. No change, or one of the module's own files, is
// about all packages.
func affected(packages []goPackage, files []string) (paths []string, why string) {
	if len(files) == 0 {
		return allOf(packages), "all packages, for nothing has changed"
	}
	changed := map[string]bool{}
	for _, f := range files {
		if f == "go.mod" || f == "go.sum" {
			return allOf(packages), "all packages, for " + f + " has changed"
		}
		for dir := filepath.Dir(f); dir != "."; dir = filepath.Dir(dir) {
			if i := slices.IndexFunc(packages, func(p goPackage) bool { return p.Dir == dir }); i >= 0 {
				changed[packages[i].ImportPath] = true
				break
			}
		}
	}
	for grown := true; grown; {
		grown = false
		for _, p := range packages {
			imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
			if !changed[p.ImportPath] && slices.ContainsFunc(imports, func(i string) bool { return changed[i] }) {
				changed[p.ImportPath], grown = true, true
			}
		}
	}
	for _, p := range packages {
		if changed[p.ImportPath] && len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			paths = append(paths, p.ImportPath)
		}
	}
	if len(paths) == 0 {
		return nil, "no package: none is affected by what has changed"
	}
	return paths, "what has changed: " + strings.Join(paths, " ")
}

func allOf(packages []goPackage) (paths []string) {
	for _, p := range packages {
		paths = append(paths, p.ImportPath)
	}
	return paths
}
