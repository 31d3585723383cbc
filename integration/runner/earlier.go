package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// firstFeature is the file with which stores began to say which features they use.
const firstFeature = "objstore/internal/refs/feature.go"

// buildEarlier builds a varve from before stores had features, for tests that upgrade from it and
// back to it, and writes the commit that it is of beside it (earlierCommit). A repository without
// its history (a shallow clone, an archive) does not have that version, and it may need modules that
// cannot be had here. Then there is no commit and no program: tests take this varve for it, built
// with the tag nofeatures.
func buildEarlier(ctx context.Context, j *job, program string) error {
	for _, file := range []string{program, earlierCommit(program)} {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	commit, err := beforeFeatures(ctx)
	if err != nil {
		fmt.Fprintf(j.log, "the earlier version is not in the history, and simulated: %v\n", err)
		return nil
	}
	tree, err := os.MkdirTemp(filepath.Dir(program), "earlier-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	build := fmt.Sprintf("git archive %s | tar -x -C %s && cd %[2]s && go build -trimpath -buildvcs=false -o %s ./cmd/varve",
		commit, quote(tree), quote(program))
	if err := j.command(ctx, []string{"CGO_ENABLED=0"}, "bash", "-o", "pipefail", "-c", build); err != nil {
		fmt.Fprintf(j.log, "commit %s does not build here, and is simulated: %v\n", commit, err)
		return ctx.Err()
	}
	return os.WriteFile(earlierCommit(program), []byte(commit), 0o644)
}

// earlierCommit is the file that names the commit of an earlier version.
func earlierCommit(program string) string { return program + ".commit" }

// beforeFeatures returns the last commit whose stores have no features.
func beforeFeatures(ctx context.Context) (string, error) {
	out, err := git(ctx, "log", "--diff-filter=A", "--format=%H", "--", firstFeature)
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(out, "\n") // added once
	if first == "" {
		return "", fmt.Errorf("no commit adds %s", firstFeature)
	}
	return git(ctx, "rev-parse", "--verify", "--quiet", first+"^")
}

// git returns what a git command prints.
func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
