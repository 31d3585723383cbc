package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// runKernelReport is the command kernel-report.
func runKernelReport(args []string) error {
	flags := flag.NewFlagSet("kernel-report", flag.ExitOnError)
	in := flags.String("in", "kernel-build.json", "what kernel-build has written")
	cpu := flags.String("cpu", "", "what watch has written meanwhile")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := os.ReadFile(*in)
	if err != nil {
		return err
	}
	var r buildResults
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("read %s: %w", *in, err)
	}
	l, err := readCPULog(*cpu, true)
	if err != nil {
		return err
	}
	r.report(os.Stdout, l)
	return nil
}

// report writes the times as a table: seconds, and in parentheses of processor time of the whole
// machine; the medians of the rounds, and their ratio.
func (r *buildResults) report(w io.Writer, l *cpuLog) {
	fmt.Fprintf(w, "%s, tinyconfig, built in Linux %s", r.Tree, r.Kernel)
	if r.Commit != "" {
		fmt.Fprintf(w, "; commit %s", r.Commit)
	}
	fmt.Fprintf(w, ". All %d builds left the same %d files with %d MiB in them: %s; vmlinux is %s.\n\n",
		len(r.Builds), r.Files, r.Bytes>>20, r.Digest, r.Vmlinux)
	fmt.Fprintf(w, "| seconds (of processor) | %s | ratio |\n|---|%s---:|\n", strings.Join(kernelBuildContenders, " | "),
		strings.Repeat("---:|", len(kernelBuildContenders)))
	all := map[string]float64{}
	line := func(title string, phases ...string) {
		fmt.Fprintf(w, "| %s |", title)
		for _, name := range kernelBuildContenders {
			took, cpu := r.took(l, name, phases)
			all[name], all[name+" cpu"] = took, cpu
			fmt.Fprintf(w, " %.1f (%.1f) |", took, cpu)
		}
		ours, theirs := kernelBuildContenders[0], kernelBuildContenders[1]
		if all[theirs] < 1 {
			fmt.Fprintln(w, " |")
			return
		}
		fmt.Fprintf(w, " %.2f (%.2f) |\n", all[ours]/all[theirs], all[ours+" cpu"]/all[theirs+" cpu"])
	}
	for _, phase := range r.Phases {
		line(phase, phase)
	}
	line("all but settling and reading back", phaseUnpack, phaseConfigure, phaseBuild, phaseUnmount)
}

// took returns the median over the rounds of what some phases took together.
func (r *buildResults) took(l *cpuLog, contender string, phases []string) (seconds, processor float64) {
	var times, cpus []float64
	for _, b := range r.Builds {
		if b.Contender != contender {
			continue
		}
		var took, cpu float64
		for _, phase := range phases {
			window := b.Windows[phase]
			took += float64(window.To-window.From) / 1e9
			cpu += l.spent(window, r.ClockOffset)
		}
		times, cpus = append(times, took), append(cpus, cpu)
	}
	return middle(times), middle(cpus)
}
