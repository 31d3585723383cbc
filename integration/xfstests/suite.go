package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// selectTests returns the names, such as "generic/001", of the tests to run, in order: those that
// match a pattern of tests, or, if there is none, those of the groups. Like ./check it takes a
// group's tests from generic and from the filesystem's own directory; "generic/quick" means one of
// them alone.
func selectTests(installed, fstyp, groups, patterns string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(installed, "check")); err != nil {
		return nil, fmt.Errorf("%s holds no installed xfstests: %w", installed, err)
	}
	words := func(s string) []string { return strings.Fields(strings.ReplaceAll(s, ",", " ")) }
	var tests []string
	for _, p := range words(patterns) {
		dir, name := filepath.Split(p)
		found, err := testsOf(installed, filepath.Clean(dir), func(test string, _ []string) bool {
			ok, _ := filepath.Match(name, test)
			return ok
		})
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("no test %q in %s", p, installed)
		}
		tests = append(tests, found...)
	}
	if len(tests) > 0 {
		return unique(tests), nil
	}
	for _, g := range words(groups) {
		dirs := []string{"generic", fstyp}
		if dir, name := filepath.Split(g); dir != "" {
			dirs, g = []string{filepath.Clean(dir)}, name
		}
		n := len(tests)
		for _, d := range dirs {
			found, err := testsOf(installed, d, func(_ string, in []string) bool { return slices.Contains(in, g) })
			if err != nil && !os.IsNotExist(err) {
				return nil, err
			}
			tests = append(tests, found...)
		}
		if len(tests) == n {
			return nil, fmt.Errorf("no test in group %q of %s", g, installed)
		}
	}
	return unique(tests), nil
}

func unique(tests []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(tests, func(t string) bool {
		had := seen[t]
		seen[t] = true
		return had
	})
}

// testsOf returns the tests of one directory that want accepts, by name and groups. Its group.list
// has a line "NUMBER GROUP…" for each test.
func testsOf(installed, dir string, want func(test string, groups []string) bool) ([]string, error) {
	f, err := os.Open(filepath.Join(installed, "tests", dir, "group.list"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var tests []string
	for in := bufio.NewScanner(f); in.Scan(); {
		line, _, _ := strings.Cut(in.Text(), "#")
		if w := strings.Fields(line); len(w) > 0 && want(w[0], w[1:]) {
			tests = append(tests, dir+"/"+w[0])
		}
	}
	return tests, nil
}
