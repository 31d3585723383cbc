package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// results is everything that was measured, and the file results.json.
type results struct {
	Kernel     string            `json:"kernel"`
	Processor  string            `json:"processor"`
	Fio        string            `json:"fio"`
	Commit     string            `json:"commit,omitempty"`
	Rounds     int               `json:"rounds"`
	Size       int64             `json:"device_bytes"`
	Steps      []step            `json:"steps"`
	Contenders []named           `json:"contenders"`
	Samples    map[string]series `json:"samples"` // by step, then contender
	Goals      []verdict         `json:"goals"`

	ClockOffset int64    `json:"clock_offset_ns"` // see clockOffset
	Startups    []window `json:"startups"`        // of fio runs that do nothing
}

// series are the samples of one step by contender, in the order of the rounds.
type series map[string][]sample

// named is a contender's name and description.
type named struct {
	Name  string   `json:"name"`
	Note  string   `json:"note"`
	Parts []string `json:"parts,omitempty"` // that it takes part in; empty: the main one
}

func newResults(ctx context.Context, p plan) *results {
	r := &results{Rounds: p.rounds, Size: p.size, Samples: map[string]series{}, Commit: os.Getenv("VARVE_BENCH_COMMIT")}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		r.Kernel = strings.TrimSpace(string(b))
	}
	r.Processor = os.Getenv("VARVE_BENCH_PROCESSOR")
	if v, err := command(ctx, "fio", "--version"); err == nil {
		r.Fio = v
	}
	return r
}

func (r *results) note(c contender) {
	if !slices.ContainsFunc(r.Contenders, func(n named) bool { return n.Name == c.name }) {
		r.Contenders = append(r.Contenders, named{Name: c.name, Note: c.note, Parts: c.parts})
	}
}

func (r *results) add(s step, contender string, smp sample) {
	if r.Samples[s.Name] == nil {
		r.Samples[s.Name] = series{}
		r.Steps = append(r.Steps, s)
	}
	r.Samples[s.Name][contender] = append(r.Samples[s.Name][contender], smp)
}

// compareSpins computes how much slower than at best the machine was around each sample.
func (r *results) compareSpins(best time.Duration) {
	for _, contenders := range r.Samples {
		for _, samples := range contenders {
			for i := range samples {
				samples[i].Slowdown = samples[i].Spin / (best.Seconds() * 1e3)
			}
		}
	}
}

// median of one figure of a step on a contender; false if it was not measured.
func (r *results) median(step, contender string, figure func(sample) float64) (float64, bool) {
	samples := r.Samples[step][contender]
	if len(samples) == 0 {
		return 0, false
	}
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = figure(s)
	}
	return middle(values), true
}

// spread of the IOPS of a step on a contender: the middle half's width against the median.
func (r *results) spread(step, contender string) float64 {
	samples := r.Samples[step][contender]
	med, ok := r.median(step, contender, iops)
	if !ok || med == 0 {
		return 0
	}
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = s.IOPS
	}
	slices.Sort(values)
	return (values[len(values)*3/4] - values[len(values)/4]) / med
}

func iops(s sample) float64    { return s.IOPS }
func mbps(s sample) float64    { return s.MBps }
func hostCPU(s sample) float64 { return s.HostCPU }

func (r *results) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

func load(path string) (*results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r results
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &r, nil
}
