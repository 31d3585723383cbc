package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// schedule runs steps, some at once, each after those that it needs.
type schedule struct {
	steps    []*step
	jobs     int // steps at once
	machines int // of those, machines of the test kernel
	dir      string
	say      io.Writer

	began    time.Time
	running  []*step
	results  []result
	expected time.Duration // of the whole
}

// tellEvery is how often a run reports that it is still running.
const tellEvery = 2 * time.Minute

// run returns the results, in the order in which the steps ended. The end of ctx ends the steps
// that run; those that have not begun are failures then, as are those that need a step that failed.
func (s *schedule) run(ctx context.Context) []result {
	s.began = time.Now()
	s.expected = s.estimate()
	ended := make(chan result)
	for len(s.results) < len(s.steps) {
		s.failUnmet(ctx)
		for next := s.next(); next != nil; next = s.next() {
			s.running = append(s.running, next)
			s.line("%-22s starts", next.name)
			go func() { ended <- next.start(ctx, s.dir) }()
		}
		if len(s.running) == 0 {
			continue // what was left has failed for what it needs
		}
		r := s.wait(ended)
		s.running = slices.DeleteFunc(s.running, func(x *step) bool { return x == r.step })
		s.end(r)
	}
	return s.results
}

// wait returns the next step that ends, and says meanwhile that it waits.
func (s *schedule) wait(ended <-chan result) result {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case r := <-ended:
			return r
		case <-tick.C:
			s.line("%s", strings.TrimPrefix(s.beside(), "; "))
		}
	}
}

// next is the step to start now, nil if there is none: of those that may start, the one with the
// longest way to the end of the run behind it.
func (s *schedule) next() *step {
	if len(s.running) >= s.jobs {
		return nil
	}
	machines := 0
	for _, x := range s.running {
		if x.machine {
			machines++
		}
	}
	var best *step
	for _, x := range s.steps {
		if slices.Contains(s.running, x) || s.result(x.name) != nil || x.machine && machines >= s.machines {
			continue
		}
		ready := !slices.ContainsFunc(x.needs, func(n string) bool { r := s.result(n); return r == nil || r.err != nil })
		if ready && (best == nil || s.way(x) > s.way(best)) {
			best = x
		}
	}
	return best
}

// way is how long a step takes, and after it the longest chain of those that need it.
func (s *schedule) way(x *step) time.Duration {
	var after time.Duration
	for _, y := range s.steps {
		if slices.Contains(y.needs, x.name) {
			after = max(after, s.way(y))
		}
	}
	return x.expected + after
}

func (s *schedule) result(name string) *result {
	for i := range s.results {
		if s.results[i].step.name == name {
			return &s.results[i]
		}
	}
	return nil
}

// failUnmet ends the steps that can't run any more.
func (s *schedule) failUnmet(ctx context.Context) {
	for _, x := range s.steps {
		if slices.Contains(s.running, x) || s.result(x.name) != nil {
			continue
		}
		err := ctx.Err()
		for _, n := range x.needs {
			if r := s.result(n); err == nil && r != nil && r.err != nil {
				err = fmt.Errorf("not run: it needs %s", n)
			}
		}
		if err != nil {
			r := result{step: x, err: err, file: filepath.Join(s.dir, x.name+".log")}
			if e := writeFile(r.file, err.Error()+"\n"); e != nil {
				r.err = errors.Join(err, e)
			}
			s.end(r)
		}
	}
}

func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// estimate is how long the run takes if the processors, or two of them, share the steps well.
func (s *schedule) estimate() time.Duration {
	var sum, longest time.Duration
	for _, x := range s.steps {
		sum += x.expected
		longest = max(longest, s.way(x))
	}
	return max(sum/time.Duration(min(s.jobs, 2)), longest)
}

func (s *schedule) end(r result) {
	s.results = append(s.results, r)
	state := "ok    "
	if r.err != nil {
		state = "FAILED"
	}
	s.line("%-22s %s %6.0f s, processor %6.0f s%s; %d of %d%s", r.step.name, state, r.wall.Seconds(), r.cpu.Seconds(),
		r.note, len(s.results), len(s.steps), s.beside())
	if r.err != nil {
		fmt.Fprintf(s.say, "%s%v\n", indent, r.err)
	}
}

// beside names the steps that run.
func (s *schedule) beside() string {
	var names []string
	for _, x := range s.running {
		names = append(names, x.name)
	}
	if len(names) == 0 {
		return ""
	}
	return "; " + strings.Join(names, ", ") + " still running"
}

// indent is as wide as the clock of a line of progress.
const indent = "              "

// line writes one line of progress: how far the clock is, of how much if that is known.
func (s *schedule) line(format string, args ...any) {
	now := clock(time.Since(s.began))
	if s.expected > 0 {
		now += "/" + clock(s.expected)
	}
	fmt.Fprintf(s.say, "%12s  %s\n", now, fmt.Sprintf(format, args...))
}

// clock is a duration as minutes and seconds.
func clock(d time.Duration) string {
	n := int(d.Seconds())
	return fmt.Sprintf("%d:%02d", n/60, n%60)
}
