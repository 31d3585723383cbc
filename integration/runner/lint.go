package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// linterVersion is the golangci-lint that .golangci.yml is for.
const linterVersion = "v2.15.0"

// lintCommand is make lint.
func lintCommand(ctx context.Context, args []string) error {
	const usage = "make lint\nRuns the linter, which it installs into VARVE_CACHE if need be."
	if err := parseNoArguments(newFlags("lint"), usage, args); err != nil {
		return err
	}
	return lint(ctx, &job{out: os.Stdout, log: os.Stderr})
}

func lint(ctx context.Context, j *job) error {
	linter, err := installLinter(ctx, j)
	if err != nil {
		return err
	}
	return j.command(ctx, nil, linter, "run", "--allow-parallel-runners") // somebody else may be linting another clone
}

// installLinter returns the linter's path. It is built if it is not there in the version that is
// wanted.
func installLinter(ctx context.Context, j *job) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "bin")
	linter := filepath.Join(bin, "golangci-lint")
	// "golangci-lint has version 2.15.0 built with …"
	said, err := exec.CommandContext(ctx, linter, "version").Output()
	if err == nil && strings.Contains(string(said), " "+strings.TrimPrefix(linterVersion, "v")+" ") {
		return linter, nil
	}
	fmt.Fprintf(j.log, "installing golangci-lint %s; some minutes, once\n", linterVersion)
	return linter, j.command(ctx, []string{"GOBIN=" + bin}, "go", "install", "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@"+linterVersion)
}
