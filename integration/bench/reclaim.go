package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// reclaimRun is the parameters of a run that measures how space comes back.
type reclaimRun struct {
	tools
	dir    string
	tree   string
	rounds int
	clones int
	steady int64
	blocks string
}

// runReclaim measures how space comes back on the file systems that a store may lie on.
func runReclaim(ctx context.Context, args []string) error {
	var r reclaimRun
	flags := flag.NewFlagSet("reclaim", flag.ExitOnError)
	flags.StringVar(&r.dir, "dir", "/tmp/bench", "directory on a tmpfs that everything lies on")
	flags.StringVar(&r.varve, "varve", "", "the varve program")
	flags.StringVar(&r.tree, "tree", "/usr/share", "the tree whose first 200 MB are copied")
	flags.IntVar(&r.rounds, "rounds", 10, "times that a tree is copied and deleted")
	flags.IntVar(&r.clones, "clones", 1000, "clones to make, write to, and delete")
	flags.Int64Var(&r.steady, "steady", 1<<30, "bytes to write in a steady state, for the write amplification")
	flags.StringVar(&r.blocks, "blocks", "4,16,128", "KiB of the writes in a steady state")
	fs := flags.String("fs", "ext4,xfs,btrfs,tmpfs", "file systems to try")
	steps := flags.String("steps", "rounds,clones,writes", "what to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for step := range strings.SplitSeq(*steps, ",") {
		measure, on := r.copyRounds, strings.Split(*fs, ",")
		switch step {
		case "rounds":
			fmt.Printf("\n| store on | round | files MiB | live on the device | store, tree copied | store, collected | to live | collection s |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
		case "clones":
			fmt.Printf("\n| store on | before MiB, statfs | du | clones written | statfs | du | collected, statfs | du | statfs to before | du to before | collection s |\n|---|%s\n",
				strings.Repeat("---:|", 10))
			measure = r.cloneAndDelete
		case "writes":
			fmt.Printf("\n| writes | collected | user MiB | disk MiB | amplification | of which lists MiB | copies | used in the end MiB | cycles |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n")
			measure, on = r.writeSteadily, []string{"ext4"}
		default:
			return fmt.Errorf("no such step %q", step)
		}
		for _, fs := range on {
			if err := r.on(ctx, fs, measure); err != nil {
				return fmt.Errorf("%s on %s: %w", step, fs, err)
			}
		}
	}
	return nil
}

// on makes a file system, and measures there.
func (r *reclaimRun) on(ctx context.Context, fs string, measure func(context.Context, *ground) error) error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	g, err := makeGround(ctx, r.tools, r.dir, fs)
	if err != nil {
		return err
	}
	return errors.Join(measure(ctx, g), g.end(context.WithoutCancel(ctx)))
}
