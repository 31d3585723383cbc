//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDescriptorLimit runs a daemon with a low limit of file descriptors: it refuses to attach more
// devices while I/O, snapshots and settling continue, and attaches devices again after some were
// detached.
func TestDescriptorLimit(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	n := newNode(ctx, t)
	n.program = filepath.Join(t.TempDir(), "varve")
	script := fmt.Sprintf("#!/bin/sh\nexec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource prlimit --nofile=160:160 %s \"$@\"\n", varve)
	if err := os.WriteFile(n.program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	n.serve(ctx)
	type use struct {
		Files struct{ Open, Limit int } `json:"open_files"`
		Why   string                    `json:"read_only"`
	}
	var devs []string
	for i := 0; ; i++ {
		name := fmt.Sprint("v", i)
		n.varve(ctx, "volume", "create", name, "--size", "16M")
		r := n.try(ctx, "attach", name)
		if r.code == 0 {
			devs = append(devs, strings.TrimSpace(r.stdout))
			continue
		}
		if !strings.Contains(r.stderr, "of at most 160 files are open") {
			t.Errorf("attach %s is refused without the reason: %s", name, r.stderr)
		}
		break
	}
	if len(devs) < 4 {
		t.Fatalf("only %d devices with 160 descriptors", len(devs))
	}
	if u := query[use](ctx, n, "stat"); u.Files.Limit != 160 || u.Files.Open < 60 || u.Files.Open >= 160 {
		t.Errorf("stat says %+v", u)
	}
	for i, dev := range devs {
		must(ctx, t, "dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=2", "oflag=direct", "conv=notrunc,fsync", "status=none")
		n.snapshot(ctx, fmt.Sprintf("v%d@s", i))
		noIOErrors(ctx, t, dev)
	}
	if u := query[use](ctx, n, "stat"); u.Why != "" {
		t.Errorf("the store is read-only: %s", u.Why)
	}
	for i := range len(devs) - 1 {
		n.varve(ctx, "detach", fmt.Sprint("v", i))
	}
	n.attach(ctx, fmt.Sprint("v", len(devs)))
	if out := n.varve(ctx, "check"); strings.Contains(out, "damage:") {
		t.Errorf("check: %s", out)
	}
	n.stop(ctx, "--detach")
}
