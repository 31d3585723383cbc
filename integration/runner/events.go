package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"

	"varve/integration/tally"
)

// eventCount is what a stream of test events comes to.
type eventCount struct{ passed, failed, skipped int }

// tests is the number of tests that ran, or skipped.
func (c *eventCount) tests() int { return c.passed + c.failed + c.skipped }

// note is what a line of progress says of them.
func (c *eventCount) note() string {
	s := fmt.Sprintf(", %d passed", c.passed)
	if c.failed > 0 {
		s += fmt.Sprintf(", %d failed", c.failed)
	}
	if c.skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.skipped)
	}
	return s
}

// add counts one event; subtests are not counted. It returns the name of the test if the event is
// its failure.
func (c *eventCount) add(e tally.Event) string {
	if e.Test == "" {
		return "" // the package
	}
	sub := strings.Contains(e.Test, "/")
	switch {
	case e.Action == "fail":
		if !sub {
			c.failed++
		}
		return e.Test
	case sub:
	case e.Action == "pass":
		c.passed++
	case e.Action == "skip":
		c.skipped++
	}
	return ""
}

// eventWriter turns the output of a test program, which is run with -test.v=test2json and written
// to it, into test events as it comes.
type eventWriter struct {
	stdin io.WriteCloser
	cmd   *exec.Cmd
	done  chan struct{}

	mu    sync.Mutex
	out   io.Writer
	err   error
	count eventCount
}

// newEventWriter writes the events to out. failed is called for each test that failed, subtests
// too.
func newEventWriter(ctx context.Context, out io.Writer, pkg string, failed func(test string)) (*eventWriter, error) {
	w := &eventWriter{out: out, done: make(chan struct{})}
	w.cmd = exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", pkg)
	var err error
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	events, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start test2json: %w", err)
	}
	go w.follow(events, failed)
	return w, nil
}

func (w *eventWriter) follow(events io.Reader, failed func(test string)) {
	defer close(w.done)
	in := bufio.NewReader(events)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			w.mu.Lock()
			if _, e := w.out.Write(line); e != nil {
				w.err = e
			}
			w.mu.Unlock()
			var e tally.Event
			if json.Unmarshal(line, &e) == nil {
				if test := w.count.add(e); test != "" {
					failed(test)
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// Write takes output of the test program.
func (w *eventWriter) Write(p []byte) (int, error) { return w.stdin.Write(p) }

// close ends the stream, waits for its last events and returns what they come to.
func (w *eventWriter) close() (eventCount, error) {
	_ = w.stdin.Close()
	<-w.done
	if err := w.cmd.Wait(); err != nil {
		return w.count, fmt.Errorf("test2json: %w", err)
	}
	return w.count, w.err
}

// writeFailure writes the events of a test that did not say itself that it failed.
func writeFailure(out io.Writer, pkg, test, why string) error {
	enc := json.NewEncoder(out)
	for _, e := range []tally.Event{
		{Action: "output", Package: pkg, Test: test, Output: why + "\n"},
		{Action: "fail", Package: pkg, Test: test},
	} {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("write test events: %w", err)
		}
	}
	return nil
}
