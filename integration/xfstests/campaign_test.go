package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// script is a machine that prints what it is told to, until it is killed.
type script struct {
	killed chan struct{}
	ended  chan error
}

func (s *script) wait() error { return <-s.ended }
func (s *script) kill()       { close(s.killed) }

var errKilled = errors.New("killed")

// boots makes machines in which every test passes after a second, but for those that behaviour
// names: "hang" says nothing more, "stuck" is what guest notices as hanging, "die" ends the
// machine, "fail" and "notrun" are outcomes.
func boots(behaviour map[string]string, booted *[][]string) func([]string, io.Writer) (machine, error) {
	return func(tests []string, out io.Writer) (machine, error) {
		*booted = append(*booted, tests)
		s := &script{killed: make(chan struct{}), ended: make(chan error, 1)}
		go func() { s.ended <- s.say(tests, behaviour, out) }()
		return s, nil
	}
}

func (s *script) say(tests []string, behaviour map[string]string, out io.Writer) error {
	fmt.Fprintf(out, "@@ batch %s\n", strings.Join(tests, " "))
	for _, t := range tests {
		if behaviour[t] == "unbegun" {
			return errors.New("no boot")
		}
		fmt.Fprintf(out, "%s  ", t)
		select {
		case <-time.After(time.Second):
		case <-s.killed:
			return errKilled
		}
		switch behaviour[t] {
		case "":
			fmt.Fprintf(out, " 1s\n")
		case "fail":
			fmt.Fprintf(out, "- output mismatch (see %s.out.bad)\n", t)
		case "notrun":
			fmt.Fprintf(out, "[not run] no such thing\n")
		case "die":
			return errors.New("exit status 125")
		case "stuck":
			fmt.Fprintf(out, "\n@@ timeout\n")
			fallthrough
		case "hang":
			<-s.killed
			return errKilled
		}
	}
	fmt.Fprintf(out, "Ran: %s\n@@ end\n", strings.Join(tests, " "))
	return nil
}

func newBook(t *testing.T) *book {
	t.Helper()
	b, err := openBook(filepath.Join(t.TempDir(), "target", "results"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.close() })
	return b
}

func outcomesIn(b *book, tests []string) []outcome {
	var got []outcome
	for _, t := range tests {
		got = append(got, b.get(t).outcome)
	}
	return got
}

var seven = []string{"generic/001", "generic/002", "generic/003", "generic/004", "generic/005", "generic/006", "generic/007"}

// A test that hangs or kills its machine costs that test alone; the others run in the next machine.
func TestCampaignGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var booted [][]string
		b := newBook(t)
		c := &campaign{
			target: "varve", book: b, limit: 300 * time.Second, progress: io.Discard,
			start: boots(map[string]string{"generic/002": "hang", "generic/003": "fail", "generic/004": "die", "generic/005": "notrun", "generic/007": "stuck"}, &booted),
		}
		began := time.Now()
		if err := c.run(t.Context(), seven); err != nil {
			t.Fatal(err)
		}
		want := []outcome{passed, timeout, failed, died, notRun, passed, timeout}
		if got := outcomesIn(b, seven); !slices.Equal(got, want) {
			t.Errorf("outcomes %v, want %v", got, want)
		}
		if want := [][]string{seven, seven[2:], seven[4:]}; !slices.EqualFunc(booted, want, slices.Equal) {
			t.Errorf("machines ran %v, want %v", booted, want)
		}
		// It takes long until a machine is given up that says nothing, and no time if guest says
		// that a test hangs.
		if took := time.Since(began); took != 6*time.Second+silent {
			t.Errorf("took %v", took)
		}
		// What is known is not run again.
		if err := c.run(t.Context(), seven); err != nil || len(booted) != 3 {
			t.Errorf("a second run: %v, %d machines, want 3", err, len(booted))
		}
	})
}

func TestCampaignGivesUp(t *testing.T) {
	var booted [][]string
	b := newBook(t)
	c := &campaign{
		target: "loop", book: b, limit: time.Hour, progress: io.Discard,
		start: boots(map[string]string{"generic/001": "unbegun"}, &booted),
	}
	err := c.run(t.Context(), seven)
	if err == nil || !strings.Contains(err.Error(), "no boot") || !strings.Contains(err.Error(), "loop: 3 machines") {
		t.Errorf("error %v, want one that says that 3 machines of loop did not boot", err)
	}
	if len(booted) != barren || len(b.remaining(seven)) != len(seven) {
		t.Errorf("%d machines, %d tests to run", len(booted), len(b.remaining(seven)))
	}
}

// Interrupting a run loses the running test, which gets no outcome.
func TestCampaignInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var booted [][]string
		b := newBook(t)
		c := &campaign{
			target: "loop", book: b, limit: time.Hour, progress: io.Discard,
			start: boots(map[string]string{"generic/003": "hang"}, &booted),
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.run(ctx, seven); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
		}
		want := []outcome{passed, passed, missing, missing, missing, missing, missing}
		if got := outcomesIn(b, seven); !slices.Equal(got, want) {
			t.Errorf("outcomes %v, want %v", got, want)
		}
	})
}
