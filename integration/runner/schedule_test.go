package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder makes steps that take their expected time, and notes when they ran.
type recorder struct {
	mu                    sync.Mutex
	ran                   []string
	running, machines     int
	maxRunning, maxActive int
}

func (r *recorder) step(name string, took time.Duration, machine bool, err error, needs ...string) *step {
	return &step{name: name, needs: needs, expected: took, machine: machine, run: func(ctx context.Context, _ *job) error {
		n := 0
		if machine {
			n = 1
		}
		r.mu.Lock()
		r.ran = append(r.ran, name)
		r.running, r.machines = r.running+1, r.machines+n
		r.maxRunning, r.maxActive = max(r.maxRunning, r.running), max(r.maxActive, r.machines)
		r.mu.Unlock()
		select {
		case <-time.After(took):
		case <-ctx.Done():
			err = ctx.Err()
		}
		r.mu.Lock()
		r.running, r.machines = r.running-1, r.machines-n
		r.mu.Unlock()
		return err
	}}
}

// startsIn lists the steps that started, by what was said.
func startsIn(said string) (names []string) {
	for line := range strings.Lines(said) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "starts" {
			names = append(names, fields[1])
		}
	}
	return names
}

func TestSchedule(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		var said bytes.Buffer
		s := &schedule{jobs: 2, machines: 1, dir: dir, say: &said, steps: []*step{
			r.step("short", time.Second, false, nil),
			r.step("m1", 30*time.Second, true, nil),
			r.step("m2", 20*time.Second, true, nil),
			r.step("first", time.Second, false, nil),
			r.step("long", 60*time.Second, false, nil, "first"),
		}}
		began := time.Now()
		results := s.run(context.Background())
		// What has the most behind it comes first; one machine at a time; nothing waits that may
		// run.
		if want := []string{"first", "m1", "long", "m2", "short"}; !slices.Equal(startsIn(said.String()), want) {
			t.Errorf("it says\n%swant starts in the order %v", said.String(), want)
		}
		if r.maxRunning != 2 || r.maxActive != 1 {
			t.Errorf("%d steps at once, %d machines; want 2 and 1", r.maxRunning, r.maxActive)
		}
		if took := time.Since(began); took != 61*time.Second || len(results) != 5 {
			t.Errorf("%d results after %v, want 5 after 61 s", len(results), took)
		}
	})
}

func TestScheduleFailure(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		var said bytes.Buffer
		s := &schedule{jobs: 2, dir: dir, say: &said, steps: []*step{
			r.step("a", time.Second, false, errors.New("no room")),
			r.step("b", time.Second, false, nil, "a"),
			r.step("c", time.Second, false, nil, "b"),
			r.step("d", 9*time.Second, false, nil),
		}}
		failed := map[string]string{}
		for _, x := range s.run(context.Background()) {
			failed[x.step.name] = errorText(x.err)
		}
		for name, want := range map[string]string{"a": "no room", "b": "it needs a", "c": "it needs b", "d": ""} {
			if !strings.Contains(failed[name], want) || (want == "") != (failed[name] == "") {
				t.Errorf("step %s: error %q, want %q", name, failed[name], want)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, "c.log")); err != nil || !strings.Contains(string(b), "it needs b") {
			t.Errorf("the log of a step that was not run has %q, %v", b, err)
		}
		if out := said.String(); !strings.Contains(out, "no room") || strings.Count(out, "FAILED") != 3 {
			t.Errorf("it says\n%s", out)
		}
	})
}

// A run that is ended ends its steps, and those that had not begun are no success.
func TestScheduleEnded(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		s := &schedule{jobs: 1, dir: dir, say: &bytes.Buffer{}, steps: []*step{
			r.step("a", time.Hour, false, nil), r.step("b", time.Second, false, nil),
		}}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, x := range s.run(ctx) {
			if x.err == nil {
				t.Errorf("step %s is a success", x.step.name)
			}
		}
		if !slices.Equal(r.ran, []string{"a"}) {
			t.Errorf("steps ran: %v", r.ran)
		}
	})
}

// A step's output and what it cost are kept; a step that failed is one in the tally, whatever its
// events say.
func TestStepOutput(t *testing.T) {
	dir := t.TempDir()
	const pass = `{"Action":"pass","Package":"p","Test":"TestA"}`
	steps := []*step{
		{name: "a/log", run: command("bash", "-c", "echo out; echo err >&2; for ((i = 0; i < 100000; i++)); do :; done")},
		{name: "events", events: true, run: command("bash", "-c", "echo '"+pass+"'; echo err >&2; exit 3")},
	}
	s := &schedule{jobs: 1, dir: dir, say: &bytes.Buffer{}, steps: steps}
	results := s.run(t.Context())
	for name, want := range map[string]string{"a/log.log": "out\nerr\n", "events.json": pass + "\n", "events.log": "err\nbash: exit status 3\n"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s has %q (%v), want %q", name, b, err, want)
		}
	}
	if results[0].cpu == 0 {
		t.Error("a loop took no processor time")
	}
	tally, err := addUp(steps, results)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if tally.Report(&b) || !strings.Contains(b.String(), "2 passed, 1 failed, 0 skipped\n") {
		t.Errorf("it reports\n%s", b.String())
	}
}

func TestOnlySteps(t *testing.T) {
	steps := []*step{{name: "packages"}, {name: "unit", needs: []string{"packages"}}, {name: "kernel"}, {name: "vm/fs", needs: []string{"kernel", "programs"}}, {name: "programs", needs: []string{"packages"}}}
	for pattern, want := range map[string]string{"unit": "packages unit", "^vm": "packages kernel vm/fs programs", "kernel|unit": "packages unit kernel"} {
		picked, err := onlySteps(steps, pattern)
		var names []string
		for _, x := range picked {
			names = append(names, x.name)
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("steps of %q: %s, %v; want %s", pattern, got, err, want)
		}
	}
	if _, err := onlySteps(steps, "nosuch"); err == nil {
		t.Error("a pattern that matches no step is no error")
	}
}
