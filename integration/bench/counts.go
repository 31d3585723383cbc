package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"varve/objstore"
	"varve/objstore/vfs"
)

// runCounts measures how long it takes to count the references of a large store after an opening,
// and what a deletion would free: of a snapshot that differs from its volume in some chunks, and of
// both together, which frees all there is.
func runCounts(ctx context.Context, args []string) error {
	var m memoryRun
	flags := m.flags("counts", 16<<30, 16<<10)
	flags.Int64Var(&m.options.CountMemory, "count-memory", 0, "bytes for the counts of chunks; 0: the default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return m.changed(ctx, 1000, func(store string) error { return m.count(ctx, store) })
}

// count opens the store, of which the nodes of trees alone are read from here on, and prints a line
// for each trial of a deletion. The first one counts all references.
func (m memoryRun) count(ctx context.Context, store string) error {
	m.options.FS = vfs.OS(store)
	s, err := objstore.Open(ctx, store, m.options)
	if err != nil {
		return err
	}
	printMemoryHeader()
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
