package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"
)

// kublkContenders are the kernel's own ublk server, one queue, depth 128.
func kublkContenders() []contender {
	return []contender{
		{name: "kublk null", note: "the selftests' ublk server, no data", null: true, start: startKublk(100, "null")},
		{name: "kublk loop", note: "the selftests' ublk server over a file, automatic zero copy", start: startKublk(101, "loop")},
	}
}

var kublkPID = regexp.MustCompile(`daemon pid (\d+)`)

func startKublk(id int, target string) func(context.Context, *env) (device, error) {
	return func(ctx context.Context, e *env) (device, error) {
		number := strconv.Itoa(id)
		args := []string{"add", "-t", target, "-q", "1", "-d", "128", "-n", number, "--auto_zc"}
		if target == "loop" {
			file, err := e.sparse("disk", e.size)
			if err != nil {
				return device{}, err
			}
			args = append(args, file)
		}
		out, err := command(ctx, e.kublk, args...)
		if err != nil {
			return device{}, err
		}
		e.atEnd(func(ctx context.Context) error { return quietly(ctx, e.kublk, "del", "-n", number) })
		m := kublkPID.FindStringSubmatch(out)
		if m == nil {
			return device{}, fmt.Errorf("read kublk's answer: no pid in %q", out)
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			return device{}, fmt.Errorf("read kublk's answer: %w", err)
		}
		path := "/dev/ublkb" + number
		return device{path: path, pid: pid}, waitForNode(ctx, path)
	}
}

// waitForNode returns when a device node is there.
func waitForNode(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
