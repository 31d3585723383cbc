package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// step is one part of a run.
type step struct {
	name     string
	needs    []string      // steps that have to have passed before
	expected time.Duration // with another step beside it on two processors that have no other work
	events   bool          // its output is events of go test -json; else a log
	machine  bool          // it runs a machine of the test kernel, and counts against VARVE_VM_JOBS
	run      func(context.Context, *job) error
}

// job is a step that runs: where its output goes, and what its commands cost.
type job struct {
	dir string   // of the run's logs
	out *os.File // DIR/NAME.json or DIR/NAME.log
	log *os.File // what is no event; for steps without events, out

	mu   sync.Mutex
	cpu  time.Duration
	note string
}

// result is what became of a step.
type result struct {
	step *step
	file string // its events or log
	err  error
	wall time.Duration
	cpu  time.Duration // user and system, of the commands and what they waited for
	note string        // for the line that says that it ended: ", 12 tests"
}

// start runs the step, with its output in dir.
func (s *step) start(ctx context.Context, dir string) result {
	r := result{step: s, file: filepath.Join(dir, s.name+".log")}
	j := &job{dir: dir}
	began := time.Now()
	r.err = func() (err error) {
		if err := os.MkdirAll(filepath.Dir(r.file), 0o755); err != nil {
			return err
		}
		if j.log, err = os.Create(r.file); err != nil {
			return err
		}
		defer j.log.Close()
		j.out = j.log
		if s.events {
			r.file = filepath.Join(dir, s.name+".json")
			if j.out, err = os.Create(r.file); err != nil {
				return err
			}
			defer j.out.Close()
		}
		if err = s.run(ctx, j); err != nil {
			fmt.Fprintln(j.log, err)
		}
		return err
	}()
	r.wall, r.cpu, r.note = time.Since(began), j.cpu, j.note
	return r
}

// command runs a command with its output in the step's; env is added to the environment.
func (j *job) command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = j.out, j.log
	return j.do(cmd)
}

// do runs cmd and adds what it cost. The end of its context ends all that it has started.
func (j *job) do(cmd *exec.Cmd) error {
	killGroupOnEnd(cmd)
	err := cmd.Run()
	if s := cmd.ProcessState; s != nil {
		j.mu.Lock()
		j.cpu += s.UserTime() + s.SystemTime()
		j.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// command is a step that is one command.
func command(name string, args ...string) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error { return j.command(ctx, nil, name, args...) }
}
