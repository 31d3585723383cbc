package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"varve/objstore"
)

// besideRun is the parameters of a run that measures I/O beside a collection.
type besideRun struct {
	tools
	dir     string
	rounds  int
	runtime time.Duration
	dead    int64 // bytes that die before each sample
	cold    int64 // bytes of settled data besides, whose trees and lists a collection reads

	dev, other device
	ground     *ground
	rates      []string // of collections; "off": none runs
	samples    map[string]map[string][]besideSample
}

// besideSample is a fio run beside a collection.
type besideSample struct {
	sample
	covered float64 // the part of the run during which a collection ran
	seconds float64 // that the collection took
	freed   int64   // bytes
	objects int64   // that were dead
}

// runBeside compares the latency of I/O while a collection runs with that of the same I/O while none
// does, at the default rate and at full speed. Data dies in pieces of 64 KiB before each sample,
// whether anything is collected then or not, so that a collection has about a thousand holes to
// punch.
func runBeside(ctx context.Context, args []string) error {
	r := besideRun{samples: map[string]map[string][]besideSample{}}
	flags := flag.NewFlagSet("beside", flag.ExitOnError)
	flags.StringVar(&r.dir, "dir", "/tmp/bench", "directory on a tmpfs that everything lies on")
	flags.StringVar(&r.varve, "varve", "", "the varve program")
	flags.IntVar(&r.rounds, "rounds", 5, "samples of each")
	flags.DurationVar(&r.runtime, "time", 1500*time.Millisecond, "length of one fio run")
	flags.Int64Var(&r.dead, "dead", 256<<20, "bytes that die before each sample")
	flags.Int64Var(&r.cold, "cold", 768<<20, "bytes of other data in the store")
	engine := flags.Bool("engine", false, "measure an engine in this process, in -dir, which may be on any file system; no device and no varve are needed")
	fs := flags.String("fs", "ext4", "file system that the store lies on")
	rates := flags.String("rates", "off,64M,none", "the rates of collections to compare; off: without one")
	steps := flags.String("steps", "randread4k-qd1,randwrite4k-qd1,randread4k-qd32,randwrite4k-qd32,fsync4k", "kinds of I/O")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r.rates = strings.Split(*rates, ",")
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	names := strings.Split(*steps, ",")
	if *engine {
		return r.inEngine(ctx, names)
	}
	var err error
	if r.ground, err = makeGround(ctx, r.tools, r.dir, *fs); err != nil {
		return err
	}
	err = r.measure(ctx, names)
	return errors.Join(err, r.ground.end(context.WithoutCancel(ctx)))
}

func (r *besideRun) measure(ctx context.Context, names []string) error {
	r.ground.size = 512 << 20
	var err error
	if r.dev, err = startStore(ctx, &r.ground.env, nil); err != nil {
		return err
	}
	if err := r.startOther(ctx); err != nil {
		return err
	}
	for i, name := range names {
		s, ok := stepNamed(name, r.ground.size)
		if !ok {
			return fmt.Errorf("no such step %q", name)
		}
		s.Limit = 0
		for round := range r.rounds {
			for k := range r.rates {
				if err := r.take(ctx, s, r.rates[(k+round+i)%len(r.rates)]); err != nil {
					return err
				}
			}
		}
	}
	r.report(names, "store on "+r.ground.fs)
	return nil
}

func stepNamed(name string, size int64) (step, bool) {
	all := mainSteps(size)
	i := slices.IndexFunc(all, func(s step) bool { return s.Name == name })
	if i < 0 {
		return step{}, false
	}
	return all[i], true
}

// startOther makes a second volume, in which data dies, and fills both.
func (r *besideRun) startOther(ctx context.Context) error {
	store := r.ground.store()
	if err := quietly(ctx, r.varve, "volume", "create", "other", "--size", fmt.Sprint(r.cold+2*r.dead), "--store", store); err != nil {
		return err
	}
	path, err := command(ctx, r.varve, "attach", "other", "--transport", "ublk", "--store", store)
	if err != nil {
		return err
	}
	r.other = device{path: path, pid: r.dev.pid}
	r.ground.atEnd(func(ctx context.Context) error { return quietly(ctx, r.varve, "detach", "other", "--store", store) })
	if err := errors.Join(waitForNode(ctx, r.dev.path), waitForNode(ctx, path)); err != nil {
		return err
	}
	fill := step{RW: "write", Block: 512 << 10, Depth: 8, Refill: true}
	for _, d := range []struct {
		path string
		size int64
	}{{r.dev.path, r.ground.size}, {path, r.cold + 2*r.dead}} {
		fill.Limit = d.size
		if _, err := runFio(ctx, fioArgs(fill, d.path, d.size, time.Minute, 1)); err != nil {
			return err
		}
	}
	return r.dev.settle(ctx)
}

// take has data die, and takes a sample at a rate.
func (r *besideRun) take(ctx context.Context, s step, rate string) error {
	seed := time.Now().Nanosecond()
	pieces := step{RW: "randwrite", Block: 64 << 10, Depth: 8, Refill: true, Limit: r.dead}
	if _, err := runFio(ctx, fioArgs(pieces, r.other.path, r.cold+2*r.dead, time.Minute, seed)); err != nil {
		return err
	}
	if err := r.settleOther(ctx); err != nil {
		return err
	}
	if err := quietly(ctx, r.varve, "set", "--gc-rate", strings.Replace(rate, "off", "none", 1), "--store", r.ground.store()); err != nil {
		return err
	}
	var smp besideSample
	for try := 0; ; try++ {
		began, err := r.lastCollection(ctx)
		if err != nil {
			return err
		}
		if smp, err = r.sampleAt(ctx, s, rate, seed); err != nil {
			return err
		}
		ended, err := r.lastCollection(ctx)
		if err != nil {
			return err
		}
		if rate != "off" || began == ended || try == 3 {
			break // else the store has collected by itself meanwhile
		}
	}
	r.keep(s, rate, smp)
	if rate == "off" { // and what has died is gone before the next sample
		_, err := collectIn(ctx, r.varve, r.ground.store())
		return err
	}
	return nil
}

// keep keeps and prints a sample.
func (r *besideRun) keep(s step, rate string, smp besideSample) {
	if r.samples[s.Name] == nil {
		r.samples[s.Name] = map[string][]besideSample{}
	}
	r.samples[s.Name][rate] = append(r.samples[s.Name][rate], smp)
	fmt.Fprintf(os.Stderr, "bench: %-18s rate %-5s mean %8.1f us, p99 %8.1f us, %7.0f IOPS, collection of %.2f s covers %.2f, frees %d MiB, %d objects\n",
		s.Name, rate, smp.Mean, smp.P99, smp.IOPS, smp.seconds, smp.covered, smp.freed>>20, smp.objects)
}

// lastCollection returns when the store has begun its last collection, or the one under way.
func (r *besideRun) lastCollection(ctx context.Context) (string, error) {
	out, err := command(ctx, r.varve, "stat", "--json", "--store", r.ground.store())
	if err != nil {
		return "", err
	}
	var st struct {
		Collect objstore.CollectInfo `json:"collect"`
	}
	err = json.Unmarshal([]byte(out), &st)
	return fmt.Sprint(st.Collect.LastEnded, st.Collect.Phase), err
}

// settleOther settles both volumes.
func (r *besideRun) settleOther(ctx context.Context) error {
	store := r.ground.store()
	return errors.Join(
		r.dev.settle(ctx),
		quietly(ctx, r.varve, "snapshot", "create", "other@settled", "--wait", "--store", store),
		quietly(ctx, r.varve, "snapshot", "delete", "other@settled", "--store", store),
	)
}

// sampleAt runs fio, beside a collection unless the rate is "off".
func (r *besideRun) sampleAt(ctx context.Context, s step, rate string, seed int) (besideSample, error) {
	began := time.Now()
	type result struct {
		report objstore.CollectReport
		err    error
	}
	done := make(chan result, 1)
	if rate != "off" {
		go func() {
			var c struct {
				Report objstore.CollectReport `json:"report"`
			}
			out, err := command(ctx, r.varve, "gc", "--wait", "--json", "--store", r.ground.store())
			if err == nil {
				err = json.Unmarshal([]byte(out), &c)
			}
			done <- result{c.Report, err}
		}()
	}
	side, err := runFio(ctx, fioArgs(s, r.dev.path, r.ground.size, r.runtime, seed))
	if err != nil {
		return besideSample{}, err
	}
	smp := besideSample{sample: sample{
		IOs: side.IOs, IOPS: side.IOs / side.Runtime * 1e3, MBps: side.Bytes / side.Runtime / 1e3,
		Mean: side.Clat.Mean / 1e3, P99: side.Clat.Percentile["99.000000"] / 1e3,
	}}
	if rate == "off" {
		return smp, nil
	}
	ran := time.Since(began).Seconds()
	res := <-done
	if res.err != nil {
		return smp, res.err
	}
	end := res.report.Started.Add(time.Duration(res.report.Seconds * float64(time.Second)))
	smp.seconds, smp.freed, smp.objects = res.report.Seconds, res.report.Freed, res.report.Dead
	from := res.report.Started.Sub(began).Seconds()
	smp.covered = max(0, min(end.Sub(began).Seconds(), ran)-from) / ran
	return smp, nil
}

// report prints the medians, and their ratios to those without a collection.
func (r *besideRun) report(names []string, what string) {
	fmt.Printf("\n| %s | collection | p99 us | to without | mean us | to without | IOPS | to without | covered | collection s |\n|---|---|%s\n",
		what, strings.Repeat("---:|", 8))
	for _, name := range names {
		of := func(rate string, f func(besideSample) float64) float64 {
			var all []float64
			for _, s := range r.samples[name][rate] {
				all = append(all, f(s))
			}
			return middle(all)
		}
		p99 := func(s besideSample) float64 { return s.P99 }
		mean := func(s besideSample) float64 { return s.Mean }
		iops := func(s besideSample) float64 { return s.IOPS }
		for _, rate := range r.rates {
			ratio := func(f func(besideSample) float64) string {
				if base := of("off", f); base > 0 {
					return fmt.Sprintf("%.2f", of(rate, f)/base)
				}
				return "-"
			}
			fmt.Printf("| %s | %s | %.0f | %s | %.0f | %s | %.0f | %s | %.2f | %.1f |\n", name, rate,
				of(rate, p99), ratio(p99), of(rate, mean), ratio(mean), of(rate, iops), ratio(iops),
				of(rate, func(s besideSample) float64 { return s.covered }), of(rate, func(s besideSample) float64 { return s.seconds }))
		}
	}
}
