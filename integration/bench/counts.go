package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"varve/objstore"
	"varve/objstore/vfs"
)

// runCounts measures how long it takes to count the references of a large store after an opening,
// and what a deletion would free: of a snapshot that differs from its volume in some chunks, and of
// both together, which frees all there is.
func runCounts(ctx context.Context, args []string) error {
	var m memoryRun
	var chunk int
	flags := flag.NewFlagSet("counts", flag.ExitOnError)
	flags.StringVar(&m.dir, "dir", "", "directory for the store")
	flags.Int64Var(&m.size, "size", 1<<40, "size of the volume in bytes")
	flags.Int64Var(&m.written, "written", 16<<30, "bytes to write, all of them different")
	flags.IntVar(&chunk, "chunk", 16<<10, "chunk size in bytes")
	flags.Int64Var(&m.options.CountMemory, "count-memory", 0, "bytes for the counts of chunks; 0: the default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	store := filepath.Join(m.dir, "store")
	if err := objstore.Init(store, objstore.InitOptions{ChunkSize: chunk}); err != nil {
		return err
	}
	gen := newGenerator(chunk)
	m.options.FS = &regenerating{vfs.OS(store), gen}
	err := m.change(ctx, store, gen, 1000)
	if err == nil {
		err = m.count(ctx, store)
	}
	return errors.Join(err, os.RemoveAll(store))
}

// count opens the store, of which the nodes of trees alone are read from here on, and prints a line
// for each trial of a deletion. The first one counts all references.
func (m memoryRun) count(ctx context.Context, store string) error {
	m.options.FS = vfs.OS(store)
	s, err := objstore.Open(ctx, store, m.options)
	if err != nil {
		return err
	}
	fmt.Printf("| after | written | resident | of which heap and stacks | of which mapped files | most so far |\n|---|---:|---:|---:|---:|---:|\n")
	err = printMemory("opening", m.written)
	before := []objstore.SnapshotName{{Volume: "big", Name: "before"}}
	for _, trial := range []struct {
		name    string
		volumes []string
		snaps   []objstore.SnapshotName
	}{
		{"counting, and a trial of the snapshot", nil, before}, {"a trial of the snapshot", nil, before}, {"a trial of all", []string{"big"}, nil},
	} {
		if err != nil {
			break
		}
		began := time.Now()
		var f objstore.Freed
		if f, err = s.WouldFree(ctx, trial.volumes, trial.snaps); err != nil {
			break
		}
		took := time.Since(began)
		err = printMemory(fmt.Sprintf("%s: %v, %d MiB, estimated: %v", trial.name, took.Round(time.Millisecond), f.Total>>20, f.Estimated), m.written)
	}
	return errors.Join(err, s.Close())
}
