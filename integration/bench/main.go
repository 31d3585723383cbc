package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: bench measure|watch|report|memory|clone|diff|counts|collect|reclaim|beside|attach|rings|claims|kernel-build|kernel-report [flags]")
	}
	switch args[0] {
	case "measure":
		return runMeasure(ctx, args[1:])
	case "watch":
		return runWatch(ctx, args[1:])
	case "report":
		return runReport(args[1:])
	case "rings":
		return runRings(args[1:])
	case "memory":
		return runMemory(ctx, args[1:])
	case "clone":
		return runClone(ctx, args[1:])
	case "diff":
		return runDiff(ctx, args[1:])
	case "counts":
		return runCounts(ctx, args[1:])
	case "beside":
		return runBeside(ctx, args[1:])
	case "attach":
		return runAttach(ctx, args[1:])
	case "reclaim":
		return runReclaim(ctx, args[1:])
	case "collect":
		return runCollect(ctx, args[1:])
	case "claims":
		return runClaims(args[1:])
	case "kernel-build":
		return runKernelBuild(ctx, args[1:])
	case "kernel-report":
		return runKernelReport(args[1:])
	}
	return fmt.Errorf("no such command %q", args[0])
}

func runMeasure(ctx context.Context, args []string) error {
	var p plan
	flags := flag.NewFlagSet("measure", flag.ExitOnError)
	flags.StringVar(&p.dir, "dir", "/tmp/bench", "directory on a tmpfs that everything lies on")
	flags.StringVar(&p.varve, "varve", "", "the varve program")
	flags.StringVar(&p.before, "before", "", "an earlier varve, whose volumes and targets are measured beside those of -varve; empty: none")
	flags.StringVar(&p.kublk, "kublk", "", "the kublk program")
	flags.StringVar(&p.vdoformat, "vdoformat", "", "the vdoformat program")
	flags.IntVar(&p.rounds, "rounds", 5, "samples of each contender in each step")
	flags.DurationVar(&p.runtime, "time", 800*time.Millisecond, "length of one fio run, where the step has no fixed size")
	flags.Int64Var(&p.size, "size", 512<<20, "size of every device in bytes")
	flags.Int64Var(&p.touch, "touch", 6<<30, "bytes of the tmpfs to write and free before measuring")
	contenders := flags.String("contenders", ".", "only the contenders whose name matches")
	steps := flags.String("steps", ".", "only the steps whose name matches")
	flags.StringVar(&p.out, "out", "results.json", "file to write, on the host's file system")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if p.contenders, err = regexp.Compile(*contenders); err != nil {
		return fmt.Errorf("read -contenders: %w", err)
	}
	if p.steps, err = regexp.Compile(*steps); err != nil {
		return fmt.Errorf("read -steps: %w", err)
	}
	return measure(ctx, p)
}

func runReport(args []string) error {
	flags := flag.NewFlagSet("report", flag.ExitOnError)
	in := flags.String("in", "results.json", "file to read, and to write with what follows from it")
	cpu := flags.String("cpu", "", "what watch has written, to be joined into the results")
	md := flags.String("md", "results.md", "table to write")
	png := flags.String("png", "results.png", "plot to write; empty: none")
	claimed := flags.String("claims", "", "file for the figures of zero copy against copy; empty: none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	res, err := load(*in)
	if err != nil {
		return err
	}
	if *cpu != "" {
		l, err := readCPULog(*cpu, false)
		if err != nil {
			return err
		}
		res.charge(l)
	}
	res.Goals = res.verdicts()
	if err := res.save(*in); err != nil {
		return err
	}
	if c := res.claims(); *claimed != "" && len(c.Rows) > 0 {
		if err := c.save(*claimed); err != nil {
			return err
		}
	}
	text := res.markdown()
	if err := os.WriteFile(*md, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Print(text)
	if *png == "" {
		return nil
	}
	return res.plot(*png)
}
