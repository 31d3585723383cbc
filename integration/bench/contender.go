package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// contender is one way to get a block device.
type contender struct {
	name string
	note string // for the table's legend
	null bool   // moves no data: left out of the steps that say nothing about it
	// parts are those that it takes part in; empty: the main one.
	parts []string
	// start makes a new device of env.size bytes with nothing in it. What it has set up when it
	// fails, it also has to register with env.undo.
	start func(ctx context.Context, env *env) (device, error)
}

// device is a contender at work.
type device struct {
	path   string
	pid    int // of the server; 0: the kernel alone
	settle func(ctx context.Context) error
}

// takes reports whether a contender takes the steps of a part.
func (c contender) takes(part string) bool {
	if len(c.parts) == 0 {
		return part == partMain
	}
	return slices.Contains(c.parts, part)
}

// tools are the programs that contenders need.
type tools struct {
	varve, kublk, vdoformat string
	before                  string // an earlier varve to compare with; empty: none
}

// env is what a contender may use in one round. It is not safe for concurrent use.
type env struct {
	tools
	dir  string // on the tmpfs, empty, the contender's own
	size int64  // of the device in bytes
	undo []func(ctx context.Context) error
}

// atEnd registers a function to call when the round ends; the last registered is called first.
func (e *env) atEnd(f func(ctx context.Context) error) { e.undo = append(e.undo, f) }

// end undoes everything and removes the contender's directory.
func (e *env) end(ctx context.Context) error {
	var errs []error
	for i := len(e.undo) - 1; i >= 0; i-- {
		errs = append(errs, e.undo[i](ctx))
	}
	e.undo = nil
	errs = append(errs, os.RemoveAll(e.dir))
	return errors.Join(errs...)
}

// sparse makes a file of size bytes without blocks and returns its path.
func (e *env) sparse(name string, size int64) (string, error) {
	path := filepath.Join(e.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(f.Truncate(size), f.Close())
}

// command runs a program to its end, at most a minute, and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	// Without udev in the test kernel, dmsetup would wait for it for ever.
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	cmd.WaitDelay = 2 * time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	// A daemon that a program leaves behind may keep its output open: that is no error of the
	// program.
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", fmt.Errorf("run %s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// quietly is command without the output.
func quietly(ctx context.Context, name string, args ...string) error {
	_, err := command(ctx, name, args...)
	return err
}

// allContenders is the order of the table's columns.
func allContenders(t tools) []contender {
	return slices.Concat(varveContenders(t), kublkContenders(), kernelContenders(), smallContenders())
}
