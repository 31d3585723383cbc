package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// plan is what is to be measured.
type plan struct {
	tools
	dir        string // on the tmpfs
	out        string // results.json
	rounds     int
	runtime    time.Duration
	size       int64
	touch      int64
	contenders *regexp.Regexp
	steps      *regexp.Regexp
}

// If the fixed arithmetic takes this many times its best time, the machine is busy with something
// else.
const disturbed = 1.3

// bench is one measurement under way.
type bench struct {
	plan
	res  *results
	best time.Duration // of spin so far
	seed int
}

// entrant is a contender in a round.
type entrant struct {
	contender
	device
	env *env
}

func measure(ctx context.Context, p plan) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	b := &bench{plan: p, res: newResults(ctx, p), best: time.Hour}
	var err error
	if b.res.ClockOffset, err = clockOffset(filepath.Dir(p.out)); err != nil {
		return fmt.Errorf("compare the clocks: %w", err)
	}
	if err := touchMemory(p.dir, p.touch); err != nil {
		return fmt.Errorf("touch the tmpfs: %w", err)
	}
	for range 20 {
		b.spin()
	}
	if err := b.startups(ctx); err != nil {
		return err
	}
	for round := range p.rounds {
		start := time.Now()
		if err := b.round(ctx, round); err != nil {
			return err
		}
		b.res.compareSpins(b.best)
		if err := b.res.save(p.out); err != nil { // so that an interrupted run leaves what it has measured
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: round %d of %d took %.0f s\n", round+1, p.rounds, time.Since(start).Seconds())
	}
	return nil
}

// spin returns the time of the fixed arithmetic, and notes it if it is a new best.
func (b *bench) spin() time.Duration {
	took := spin()
	b.best = min(b.best, took)
	return took
}

// touchMemory writes and removes a file, so that the pages that the contenders get next have been
// used before: the first use of a page of a virtual machine's memory is slow, and would count
// against the contender that gets it.
func touchMemory(dir string, size int64) error {
	path := filepath.Join(dir, "touch")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	for written := int64(0); written < size && err == nil; written += int64(len(buf)) {
		_, err = f.Write(buf)
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}

// round sets every contender up, takes every step on each, and takes all down again.
func (b *bench) round(ctx context.Context, round int) (err error) {
	var entrants []*entrant
	defer func() {
		for i := len(entrants) - 1; i >= 0; i-- {
			err = errors.Join(err, entrants[i].env.end(context.WithoutCancel(ctx)))
		}
	}()
	for i, c := range allContenders(b.tools) {
		if !b.contenders.MatchString(c.name) {
			continue
		}
		dir := filepath.Join(b.dir, fmt.Sprintf("%d-%s", i, strings.ReplaceAll(c.name, " ", "-")))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		en := &entrant{contender: c, env: &env{tools: b.tools, dir: dir, size: b.size}}
		entrants = append(entrants, en)
		if en.device, err = c.start(ctx, en.env); err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		b.res.note(c)
	}
	for _, s := range allSteps(b.size) {
		if !b.steps.MatchString(s.Name) {
			continue
		}
		for i := range entrants {
			// The order rotates with the rounds, so that no contender always follows the same one.
			if err := b.take(ctx, entrants[(i+round)%len(entrants)], s); err != nil {
				return err
			}
		}
	}
	return nil
}

// take runs one step on one contender and keeps its sample. A volume settles before the next
// contender is measured: its settling must not disturb others, and its cost must show.
func (b *bench) take(ctx context.Context, en *entrant, s step) error {
	if !en.takes(s.Part) {
		return nil
	}
	smp, err := b.sample(ctx, en, s)
	if err != nil {
		return fmt.Errorf("%s on %s: %w", s.Name, en.name, err)
	}
	if s.writes() && en.settle != nil {
		from := time.Now()
		if err := en.settle(ctx); err != nil {
			return fmt.Errorf("settle %s: %w", en.name, err)
		}
		smp.Settling = since(from)
	}
	b.res.add(s, en.name, smp)
	fmt.Fprintf(os.Stderr, "bench: %-20s %-13s %9.0f IOPS %7.0f MB/s %7.1f us, slowed down %.2f\n",
		s.Name, en.name, smp.IOPS, smp.MBps, smp.Mean, smp.Spin/(b.best.Seconds()*1e3))
	return nil
}

// sample is one fio run.
func (b *bench) sample(ctx context.Context, en *entrant, s step) (sample, error) {
	b.seed++
	slow := b.calm(ctx)
	before, err := readUsage(en.pid)
	if err != nil {
		return sample{}, err
	}
	from := time.Now()
	side, err := runFio(ctx, fioArgs(s, en.path, en.env.size, b.runtime, b.seed))
	if err != nil {
		return sample{}, err
	}
	ran := since(from)
	after, err := readUsage(en.pid)
	if err != nil {
		return sample{}, err
	}
	used := after.since(before)
	return sample{
		IOs: side.IOs, IOPS: side.IOs / side.Runtime * 1e3, MBps: side.Bytes / side.Runtime / 1e3,
		Mean: side.Clat.Mean / 1e3, P99: side.Clat.Percentile["99.000000"] / 1e3,
		Server: used.server.Seconds() * 1e6 / side.IOs, Switches: float64(used.switches) / side.IOs,
		Spin: max(slow, b.spin()).Seconds() * 1e3, Window: ran,
	}, nil
}

// startups records windows in which a fio ran that does nothing: its cost is no contender's.
func (b *bench) startups(ctx context.Context) error {
	for range 7 {
		from := time.Now()
		if err := quietly(ctx, "fio", "--name=none", "--ioengine=null", "--size=4k", "--bs=4k", "--thread", "--output-format=json"); err != nil {
			return err
		}
		b.res.Startups = append(b.res.Startups, since(from))
	}
	return nil
}

// calm waits, for a second at most, until the machine has its processor for itself, and returns the
// time of the last spin.
func (b *bench) calm(ctx context.Context) time.Duration {
	took := b.spin()
	for i := 0; i < 10 && ctx.Err() == nil && float64(took) > disturbed*float64(b.best); i++ {
		time.Sleep(100 * time.Millisecond)
		took = b.spin()
	}
	return took
}
