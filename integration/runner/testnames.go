package main

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// functionsOf lists the functions of the package's test files whose names begin with prefix, "Test"
// or "Fuzz", as go test finds them. The integration tests can't be asked: outside of the test
// kernel their program refuses to run.
func functionsOf(dir, prefix string) ([]string, error) {
	ctx := build.Default
	ctx.BuildTags = append(slices.Clone(ctx.BuildTags), "integration")
	pkg, err := ctx.ImportDir(dir, 0)
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", dir, err)
	}
	var names []string
	for _, file := range append(pkg.TestGoFiles, pkg.XTestGoFiles...) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, file), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse test file: %w", err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, prefix) && fn.Name.Name != "TestMain" && len(fn.Type.Params.List) == 1 {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names, nil
}

// topLevel is a pattern of -run or -skip as far as it is about tests of top level: the part before
// the first slash of each of its alternatives. whole says that there was nothing else.
func topLevel(pattern string) (re *regexp.Regexp, whole bool, err error) {
	var alternatives []string
	whole = true
	depth, begin, inSub := 0, 0, false
	take := func(end int) {
		if !inSub {
			alternatives = append(alternatives, "(?:"+pattern[begin:end]+")")
		}
	}
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '[', '(':
			depth++
		case ']', ')':
			depth--
		case '/':
			if depth == 0 {
				take(i)
				inSub, whole = true, false
			}
		case '|':
			if depth == 0 {
				take(i)
				inSub, begin = false, i+1
			}
		}
	}
	take(len(pattern))
	re, err = regexp.Compile(strings.Join(alternatives, "|"))
	if err != nil {
		return nil, false, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return re, whole, nil
}

// selectTests are those of names that -run picks and -skip leaves; an empty pattern is as if it
// were not there.
func selectTests(names []string, run, skip string) ([]string, error) {
	runs, _, err := topLevel(run)
	if err != nil {
		return nil, err
	}
	skips, wholeSkips, err := topLevel(skip)
	if err != nil {
		return nil, err
	}
	var selected []string
	for _, n := range names {
		// A test of which -skip names subtests runs.
		if runs.MatchString(n) && (skip == "" || !wholeSkips || !skips.MatchString(n)) {
			selected = append(selected, n)
		}
	}
	return selected, nil
}
