package main

import (
	"fmt"
	"slices"
	"strings"
)

// noisy is the spread from which a figure is marked.
const noisy = 0.15

// markdown is the whole report as text.
func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s (User-Mode Linux, one processor) on %s; %s; devices of %d MiB on tmpfs; medians of %d",
		r.Kernel, r.Processor, r.Fio, r.Size>>20, r.Rounds)
	if r.Commit != "" {
		fmt.Fprintf(&b, "; commit %s", r.Commit)
	}
	b.WriteString(".\n\n")
	r.throughput(&b)
	r.processor(&b)
	r.settling(&b)
	r.copyModes(&b)
	if c := r.claims(); len(c.Rows) > 0 {
		c.markdown(&b)
	}
	r.targets(&b)
	r.goalTable(&b)
	return b.String()
}

// in returns the contenders that took the steps of a part, none if there were no steps.
func (r *results) in(part string) []named {
	if !slices.ContainsFunc(r.Steps, func(s step) bool { return s.Part == part }) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(r.Contenders), func(n named) bool { return !(contender{parts: n.Parts}).takes(part) })
}

// names returns the names of the contenders that took the steps of a part.
func (r *results) names(part string) []string {
	var names []string
	for _, c := range r.in(part) {
		names = append(names, c.Name)
	}
	return names
}

// table writes a row for each step for which cell returns anything.
func (r *results) table(b *strings.Builder, names []string, part string, cell func(s step, name string) string) {
	fmt.Fprintf(b, "| | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("---:|", len(names)))
	for _, s := range r.Steps {
		if s.Part != part {
			continue
		}
		fmt.Fprintf(b, "| %s |", s.Title)
		for _, name := range names {
			text := "–"
			if len(r.Samples[s.Name][name]) > 0 {
				text = cell(s, name)
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// speed is MB/s or thousands of I/Os a second, with a mark where the rounds disagree.
func (r *results) speed(s step, name string) string {
	mark := ""
	if r.spread(s.Name, name) > noisy {
		mark = "~"
	}
	if s.bandwidth() {
		v, _ := r.median(s.Name, name, mbps)
		return fmt.Sprintf("%s%.0f", mark, v)
	}
	v, _ := r.median(s.Name, name, iops)
	return fmt.Sprintf("%s%.1fk", mark, v/1e3)
}

func (r *results) throughput(b *strings.Builder) {
	names := r.names(partMain)
	if len(names) == 0 {
		return
	}
	b.WriteString("## Throughput\n\nMB/s from 64k on, thousands of IOPS below; ~ where the middle half of the rounds is wider than 15 %.\n\n")
	r.table(b, names, partMain, r.speed)
	r.legend(b, partMain)
}

// legend says what the contenders of a part are.
func (r *results) legend(b *strings.Builder, part string) {
	for _, c := range r.in(part) {
		fmt.Fprintf(b, "- **%s**: %s\n", c.Name, c.Note)
	}
	b.WriteString("\n")
}

// targets compares the targets that do more than loop.
func (r *results) targets(b *strings.Builder) {
	names := r.names(partTargets)
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(b, "## Targets\n\nDevices of %d MiB; the same units.\n\n", r.Size/smaller>>20)
	r.table(b, names, partTargets, r.speed)
	r.legend(b, partTargets)
}

func (r *results) processor(b *strings.Builder) {
	names := r.names(partMain)
	if len(names) == 0 {
		return
	}
	b.WriteString("## Processor time for each I/O\n\nMicroseconds of the whole machine as its host counts them, fio included, less what fio takes to start; in\nparentheses the server process alone as the guest counts it. I/Os per second of processor time are what a machine\nwould do that nothing else runs on.\n\n")
	r.table(b, names, partMain, func(s step, name string) string {
		all, _ := r.median(s.Name, name, hostCPU)
		server, _ := r.median(s.Name, name, func(s sample) float64 { return s.Server })
		if server == 0 {
			return fmt.Sprintf("%.0f", all)
		}
		return fmt.Sprintf("%.0f (%.0f)", all, server)
	})
	var slow []float64
	for _, contenders := range r.Samples {
		for _, samples := range contenders {
			for _, s := range samples {
				slow = append(slow, s.Slowdown)
			}
		}
	}
	calm := 0
	for _, v := range slow {
		if v <= disturbed {
			calm++
		}
	}
	fmt.Fprintf(b, "The machine had its processor for itself in %d of %d samples; a fixed piece of arithmetic took %.2f times its best\nin the median sample.\n\n", calm, len(slow), middle(slow))
}

// settling shows what it costs to settle what a step has written, after the step.
func (r *results) settling(b *strings.Builder) {
	const name = "varve volume"
	if !slices.Contains(r.names(partMain), name) {
		return
	}
	fmt.Fprintf(b, "## Settling\n\nAfter each step that writes, the volume settles. MB/s while writing, and with the time of settling counted in.\n\n| | MB/s | with settling | settling, s | of which processor, s |\n|---|---:|---:|---:|---:|\n")
	for _, s := range r.Steps {
		if !s.writes() || len(r.Samples[s.Name][name]) == 0 || s.Part != partMain {
			continue
		}
		speed, _ := r.median(s.Name, name, mbps)
		took, _ := r.median(s.Name, name, func(s sample) float64 { return s.settleSeconds() })
		cpu, _ := r.median(s.Name, name, func(s sample) float64 { return s.SettleCPU })
		with, _ := r.median(s.Name, name, func(m sample) float64 {
			bytes := m.IOs * float64(s.Block)
			return bytes / 1e6 / (m.IOs/m.IOPS + m.settleSeconds())
		})
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.2f | %.2f |\n", s.Title, speed, with, took, cpu)
	}
	b.WriteString("\n")
}

func (r *results) copyModes(b *strings.Builder) {
	names := r.names(partCopy)
	if len(names) == 0 {
		return
	}
	b.WriteString("## Copy modes\n\nThe loop target, random I/O, QD8; the same units.\n\n")
	r.table(b, names, partCopy, r.speed)
	for _, rw := range []string{"randread", "randwrite"} {
		fmt.Fprintf(b, "- %s: %s\n", rw, r.crossover(rw))
	}
	b.WriteString("\n")
}

// crossover returns the sentence that says from which request size on zero copy is fastest.
func (r *results) crossover(rw string) string {
	from := ""
	for _, s := range r.Steps {
		if s.Part != partCopy || s.RW != rw {
			continue
		}
		zero, ok := r.median(s.Name, "copy zero", iops)
		if !ok {
			return "not measured"
		}
		best := true
		for _, name := range r.names(partCopy) {
			if v, ok := r.median(s.Name, name, iops); ok && v > zero {
				best = false
			}
		}
		switch {
		case best && from == "":
			from = fmt.Sprintf("%dk", s.Block>>10)
		case !best:
			from = ""
		}
	}
	if from == "" {
		return "zero copy is not the fastest at the largest size"
	}
	return "zero copy is the fastest from " + from + " on"
}

func (r *results) goalTable(b *strings.Builder) {
	if len(r.Goals) == 0 {
		return
	}
	met := 0
	b.WriteString("## Goals\n\nRatios of throughput, and of I/Os per second of processor time.\n\n| | against | step | goal | throughput | processor | |\n|---|---|---|---:|---:|---:|---|\n")
	for _, v := range r.Goals {
		if v.outcome() == "met" {
			met++
		}
		fmt.Fprintf(b, "| %s | %s | %s | %.2f | %.2f | %.2f | %s |\n", v.Ours, v.Theirs, r.title(v.Step), v.Goal, v.Ratio, v.CPURate, v.outcome())
	}
	fmt.Fprintf(b, "\n%d of %d goals met in both.\n", met, len(r.Goals))
}

func (r *results) title(name string) string {
	for _, s := range r.Steps {
		if s.Name == name {
			return s.Title
		}
	}
	return name
}
