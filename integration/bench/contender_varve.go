package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// varveContenders come first in the table.
func varveContenders(t tools) []contender {
	cs := []contender{
		{name: "varve volume", note: "a volume of a store made for the round, settling on", start: startVolume()},
		{name: "varve verified", note: "a volume whose settled chunks are hashed as they are read; only reads say something", start: startVolume("--verify")},
		{name: "varve null", note: "ublk device that moves no data", null: true, start: startVarveNull("auto")},
		{name: "varve loop", note: "ublk device over a file, zero copy", start: startVarveLoop("auto")},
	}
	if t.before != "" {
		cs = append(cs, earlierContenders(cs)...)
	}
	return cs
}

// beforeSuffix ends the name of a contender that an earlier varve serves.
const beforeSuffix = " before"

// earlierContenders returns the same contenders, served by the earlier varve.
func earlierContenders(cs []contender) []contender {
	var earlier []contender
	for _, c := range cs {
		start := c.start
		c.name, c.note = c.name+beforeSuffix, "the same, by the earlier varve"
		c.start = func(ctx context.Context, e *env) (device, error) {
			e.varve = e.before
			return start(ctx, e)
		}
		earlier = append(earlier, c)
	}
	return earlier
}

func startVarveNull(mode string) func(context.Context, *env) (device, error) {
	return func(ctx context.Context, e *env) (device, error) {
		return serveDevice(ctx, e, "--target", "null", "--size", fmt.Sprint(e.size), "--copy-mode", mode)
	}
}

func startVarveLoop(mode string) func(context.Context, *env) (device, error) {
	return func(ctx context.Context, e *env) (device, error) {
		file, err := e.sparse("disk", e.size)
		if err != nil {
			return device{}, err
		}
		return serveDevice(ctx, e, "--target", "loop", "--file", file, "--copy-mode", mode)
	}
}

// serveDevice runs varve ublk add in the foreground: the first line is the device node.
func serveDevice(ctx context.Context, e *env, args ...string) (device, error) {
	node := make(chan string, 1)
	pid, err := e.serve(append([]string{"ublk", "add", "--foreground"}, args...), func(line string) {
		select {
		case node <- line:
		default:
		}
	})
	if err != nil {
		return device{}, err
	}
	select {
	case path := <-node:
		return device{path: path, pid: pid}, waitForNode(ctx, path)
	case <-time.After(20 * time.Second):
		return device{}, fmt.Errorf("varve ublk add %v: no device after 20 s", args)
	case <-ctx.Done():
		return device{}, ctx.Err()
	}
}

// serve starts varve and ends it with the round. It calls line with each line that varve prints,
// from another goroutine.
func (e *env) serve(args []string, line func(string)) (pid int, err error) {
	cmd := exec.Command(e.varve, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start varve: %w", err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			line(sc.Text())
		}
		_, _ = io.Copy(io.Discard, out)
	})
	e.atEnd(func(context.Context) error {
		_ = cmd.Process.Signal(os.Interrupt)
		stuck := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("varve %s: %w; its log:\n%s", strings.Join(args, " "), err, &log)
		}
		return nil
	})
	return cmd.Process.Pid, nil
}

// startVolume makes a volume with options of volume create.
func startVolume(createArgs ...string) func(context.Context, *env) (device, error) {
	return func(ctx context.Context, e *env) (device, error) { return startStore(ctx, e, createArgs) }
}

// startStore makes a store with one volume, and a daemon for it. Writes settle by themselves, as in
// any store; settle forces it.
func startStore(ctx context.Context, e *env, createArgs []string) (device, error) {
	store := filepath.Join(e.dir, "store")
	if err := quietly(ctx, e.varve, "init", "--store", store); err != nil {
		return device{}, err
	}
	pid, err := e.serve([]string{"serve", "--store", store}, func(string) {})
	if err != nil {
		return device{}, err
	}
	if err := waitForDaemon(ctx, e, store); err != nil {
		return device{}, err
	}
	create := append([]string{"volume", "create", "bench", "--size", fmt.Sprint(e.size), "--store", store}, createArgs...)
	if err := quietly(ctx, e.varve, create...); err != nil {
		return device{}, err
	}
	path, err := command(ctx, e.varve, "attach", "bench", "--transport", "ublk", "--store", store)
	if err != nil {
		return device{}, err
	}
	e.atEnd(func(ctx context.Context) error { return quietly(ctx, e.varve, "detach", "bench", "--store", store) })
	snapshots := 0
	settle := func(ctx context.Context) error {
		snapshots++
		name := fmt.Sprintf("bench@s%d", snapshots)
		if err := quietly(ctx, e.varve, "snapshot", "create", name, "--wait", "--store", store); err != nil {
			return err
		}
		return quietly(ctx, e.varve, "snapshot", "delete", name, "--store", store)
	}
	return device{path: path, pid: pid, settle: settle}, nil
}

// waitForDaemon returns when the daemon answers on its socket.
func waitForDaemon(ctx context.Context, e *env, store string) error {
	var err error
	for range 100 {
		if _, err = os.Stat(filepath.Join(store, "varve.sock")); err == nil {
			return quietly(ctx, e.varve, "stat", "--store", store)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(errors.New("the daemon did not come up"), err)
}
