package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// attachRun is the parameters of a run that attaches many clones at once.
type attachRun struct {
	tools
	clones  int
	command bool // by a varve command for each request, as a script does it
	store   string
	client  http.Client
}

// daemonConnections is how many connections the daemon serves at once.
const daemonConnections = 64

// daemonProtocol is the version of the daemon's protocol that post speaks.
const daemonProtocol = "1"

// runAttach clones a snapshot and attaches the clone as a device, many times at once, and prints how
// long each request took, and both together.
func runAttach(ctx context.Context, args []string) error {
	var r attachRun
	flags := flag.NewFlagSet("attach", flag.ExitOnError)
	dir := flags.String("dir", "/tmp/bench", "directory on a tmpfs for the store")
	flags.StringVar(&r.varve, "varve", "", "the varve program")
	flags.IntVar(&r.clones, "clones", 100, "clones to attach at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fmt.Printf("\n| asked by | | times | p50 ms | p99 ms | longest ms | all, s |\n|---|---|%s\n", "---:|---:|---:|---:|---:|")
	for _, r.command = range []bool{false, true} {
		e := &env{tools: r.tools, dir: filepath.Join(*dir, "attach"), size: 64 << 20}
		if err := os.MkdirAll(e.dir, 0o755); err != nil {
			return err
		}
		err := r.measure(ctx, e)
		if err = errors.Join(err, e.end(context.WithoutCancel(ctx))); err != nil {
			return err
		}
	}
	return nil
}

// measure makes a store with a snapshot of 4 MiB, and attaches clones of that.
func (r *attachRun) measure(ctx context.Context, e *env) error {
	dev, err := startStore(ctx, e, nil)
	if err != nil {
		return err
	}
	r.store = filepath.Join(e.dir, "store")
	socket := filepath.Join(r.store, "varve.sock")
	r.client = http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}, MaxConnsPerHost: daemonConnections}}
	if _, err := runFio(ctx, fioArgs(step{RW: "write", Block: 64 << 10, Depth: 1, Refill: true, Limit: 4 << 20}, dev.path, e.size, time.Minute, 1)); err != nil {
		return err
	}
	if err := quietly(ctx, r.varve, "snapshot", "create", "bench@release", "--wait", "--store", r.store); err != nil {
		return err
	}
	return r.attachAll(ctx, e)
}

// attachAll clones and attaches at once.
func (r *attachRun) attachAll(ctx context.Context, e *env) error {
	cloned, attached, both := make([]time.Duration, r.clones), make([]time.Duration, r.clones), make([]time.Duration, r.clones)
	var g errgroup.Group
	began := time.Now()
	for i := range r.clones {
		name := fmt.Sprintf("vm-%d", i)
		e.atEnd(func(ctx context.Context) error { return r.detach(ctx, name) })
		g.Go(func() error {
			from := time.Now()
			if err := r.clone(ctx, name); err != nil {
				return err
			}
			cloned[i] = time.Since(from)
			if err := r.attach(ctx, name); err != nil {
				return err
			}
			both[i] = time.Since(from)
			attached[i] = both[i] - cloned[i]
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	all := time.Since(began)
	by := "connections"
	if r.command {
		by = "commands"
	}
	for _, row := range []struct {
		what string
		took []time.Duration
	}{{"clone", cloned}, {"attach", attached}, {"both", both}} {
		slices.Sort(row.took)
		ms := func(i int) float64 { return row.took[i].Seconds() * 1e3 }
		fmt.Printf("| %s | %s | %d | %.0f | %.0f | %.0f | %.1f |\n", by, row.what, r.clones, ms(r.clones/2), ms((r.clones*99-1)/100), ms(r.clones-1), all.Seconds())
	}
	return nil
}

func (r *attachRun) clone(ctx context.Context, name string) error {
	if r.command {
		return quietly(ctx, r.varve, "volume", "clone", "bench@release", name, "--store", r.store)
	}
	return r.post(ctx, "/v1/volumes/bench/clone", map[string]any{"snapshot": "release", "name": name})
}

func (r *attachRun) attach(ctx context.Context, name string) error {
	if r.command {
		return quietly(ctx, r.varve, "attach", name, "--transport", "ublk", "--queues", "1", "--depth", "8", "--store", r.store)
	}
	return r.post(ctx, "/v1/attach", map[string]any{"volume": name, "transport": "ublk", "copy_mode": "auto", "queues": 1, "depth": 8})
}

func (r *attachRun) detach(ctx context.Context, name string) error {
	return r.post(ctx, "/v1/detach", map[string]any{"target": name})
}

// post sends a request to the daemon, without a process for it. Where the daemon has too many others, post
// tries again, as commands do.
func (r *attachRun) post(ctx context.Context, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	for pause := 5 * time.Millisecond; ; pause += pause / 4 {
		code, said, err := r.postOnce(ctx, path, b)
		if err != nil || code < http.StatusBadRequest {
			return err
		}
		if code != http.StatusServiceUnavailable || pause > time.Second {
			return fmt.Errorf("%s: status %d: %s", path, code, bytes.TrimSpace(said))
		}
		time.Sleep(pause)
	}
}

func (r *attachRun) postOnce(ctx context.Context, path string, body []byte) (code int, said []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://varve"+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Varve-Protocol", daemonProtocol)
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	said, err = io.ReadAll(resp.Body)
	return resp.StatusCode, said, err
}
