package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// machine is a test kernel that runs tests, one after the other.
type machine interface {
	// wait returns when the machine has ended; everything it said has been written by then.
	wait() error
	// kill ends the machine with all that is in it. It is for wait to return then.
	kill()
}

// campaign runs tests on one target, in as many machines as it takes.
type campaign struct {
	target   string
	book     *book
	limit    time.Duration
	progress io.Writer
	// start boots a machine that runs the tests and writes what guest says to out.
	start func(tests []string, out io.Writer) (machine, error)
}

const (
	// barren is how many machines in a row may end without a single outcome.
	barren = 3
	// silent is how long a machine may say nothing, though guest says something every minute: it is
	// dead, or starved by what else runs beside it.
	silent = 15 * time.Minute
)

func (c *campaign) run(ctx context.Context, tests []string) error {
	done, failures := 0, 0
	for {
		rest := c.book.remaining(tests)
		if len(rest) == 0 {
			return nil
		}
		fmt.Fprintf(c.progress, "%s: %d of %d tests to run\n", c.target, len(rest), len(tests))
		err := c.runMachine(ctx, rest)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: interrupted, %d tests to run: %w", c.target, len(c.book.remaining(tests)), context.Cause(ctx))
		}
		if n := len(tests) - len(c.book.remaining(tests)); n > done {
			done, failures = n, 0
		} else if failures++; failures == barren {
			return fmt.Errorf("%s: %d machines ended without the outcome of a test; the next is %s: %w", c.target, barren, rest[0], err)
		}
	}
}

// runMachine boots one machine for the tests and waits until it ends, or has to be ended.
func (c *campaign) runMachine(ctx context.Context, tests []string) error {
	var recordErr error
	record := func(r result) {
		if old := c.book.get(r.test); r.outcome == failed && old.outcome == failed {
			return // the summary's word on what is known
		}
		recordErr = errors.Join(recordErr, c.book.add(r))
		fmt.Fprintf(c.progress, "%s: %s %s %ds %s\n", c.target, r.test, r.outcome, r.seconds, r.reason)
	}
	hung := make(chan struct{}, 1)
	t := newTranscript(tests, record, func(words []string) {
		switch words[0] {
		case "timeout":
			select {
			case hung <- struct{}{}:
			default:
			}
		case "note":
			fmt.Fprintf(c.progress, "%s: %s\n", c.target, strings.Join(words[1:], " "))
		}
	})
	said := make(chan struct{}, 1)
	m, err := c.start(tests, teller{t, said})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- m.wait() }()
	expired := c.watch(ctx, m, ended, hung, said, &err)

	// Nothing writes to the transcript any more.
	test, seconds := t.abandon()
	switch {
	case test == "" || ctx.Err() != nil:
	case expired:
		record(result{test, timeout, seconds, fmt.Sprintf("not done in %v", c.limit)})
	default:
		record(result{test, died, seconds, fmt.Sprintf("the machine ended: %v", err)})
	}
	return errors.Join(err, recordErr)
}

// watch waits for the machine's end, and ends it when guest says that a test hangs, when guest
// itself says nothing any more, or with ctx. True: for a time limit.
func (c *campaign) watch(ctx context.Context, m machine, ended <-chan error, hung, said <-chan struct{}, err *error) bool {
	silence := time.NewTimer(silent)
	defer silence.Stop()
	expired := false
	for {
		select {
		case *err = <-ended:
			return expired
		case <-said:
			silence.Reset(silent)
			continue
		case <-ctx.Done():
		case <-hung:
			expired = true
		case <-silence.C:
			expired = true
		}
		m.kill()
		*err = <-ended
		return expired
	}
}

// teller passes on what is written and tells that something was.
type teller struct {
	io.Writer
	said chan<- struct{}
}

func (t teller) Write(p []byte) (int, error) {
	select {
	case t.said <- struct{}{}:
	default:
	}
	return t.Writer.Write(p)
}
