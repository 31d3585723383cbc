package objstore

import (
	"context"
	"time"
)

// CollectOptions say how Store.Collect collects. The zero value collects all that it can.
type CollectOptions struct {
	// DryRun only finds out what a collection would free.
	DryRun bool
}

// CollectReport is what a collection has found and done. Bytes of objects are those of the blocks
// that they occupy.
type CollectReport struct {
	DryRun   bool      `json:"dry_run,omitempty"`
	Started  time.Time `json:"started"` // wall clock
	Seconds  float64   `json:"seconds"`
	Passes   int       `json:"passes"` // more than one if a filter for all objects would take too much memory
	Roots    int       `json:"roots"`  // of volumes, snapshots, open views and running checks
	Nodes    int64     `json:"nodes"`  // tree nodes that are alive; those visited more than once, for want of memory, as often
	Objects  int64     `json:"objects"`
	Segments int       `json:"segments"` // that were looked at: sealed ones, and in a dry run those that would be
	Swept    int       `json:"swept"`    // of Segments, those that dead objects were taken out of
	Dead     int64     `json:"dead"`     // objects that were taken out, or would be
	Freed    int64     `json:"freed"`    // bytes that were given back to the file system, or would be
	Kept     int64     `json:"kept"`     // bytes of dead objects that stay: too scattered to be punched, or a small part of a segment in use
	Memory   int64     `json:"memory"`   // bytes that the marks took: the filter, and what was visited
	Read     int64     `json:"read"`     // bytes of tree nodes and of object lists
	Written  int64     `json:"written"`  // bytes of object lists, and of copies
	Copied   int64     `json:"copied"`   // bytes of objects that were copied out of segments with little alive
	Retired  int       `json:"retired"`  // segments that were unlinked
}

// CollectPhase is what the collector does.
type CollectPhase string

// The phases of a cycle, in their order.
const (
	CollectIdle     CollectPhase = "idle"
	CollectWaiting  CollectPhase = "waiting" // for a settling, or for readers, that began before the cycle
	CollectMarking  CollectPhase = "marking"
	CollectSweeping CollectPhase = "sweeping"
)

// CollectState is how far the collector is, and what it has done since the store was opened.
type CollectState struct {
	Phase   CollectPhase   `json:"phase"`
	DryRun  bool           `json:"dry_run,omitempty"`
	Done    int64          `json:"done"`  // of Total: roots walked while marking, segments while sweeping
	Total   int64          `json:"total"` // 0 if nothing is under way
	Freed   int64          `json:"freed"` // bytes, by the cycle under way
	LastEnd time.Time      `json:"last_end,omitzero"`
	Last    *CollectReport `json:"last,omitempty"`  // the last cycle that came to its end
	Error   string         `json:"error,omitempty"` // why the last cycle did not
}

// Collect frees what no volume, snapshot or open view refers to, in the segments that are sealed,
// beside the I/O, and returns when it has done that. It blocks. One collection runs at a time; a
// second caller waits for the first. What a volume has written and not settled is not looked at;
// Settle goes first if that is wanted.
//
// An error means that the cycle was not completed; what it had freed until then is freed, and is in
// the report. A tree node that cannot be read is such an error: what lies below it is unknown, so
// nothing is freed. While a volume is refused for damage, nothing is freed either.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (CollectReport, error) {
	return s.collector.collect(ctx, cycleOptions{dryRun: o.DryRun, full: true})
}

// CollectState returns how far the collector is. It never blocks on I/O.
func (s *Store) CollectState() CollectState { return s.collector.stateNow() }

// SetCollectRate bounds what the collector reads, writes and gives back, in bytes a second; 0: the
// default, below 0: no bound. It takes effect at once, and for this opening of the store.
func (s *Store) SetCollectRate(bytes int64) { s.collector.throttle.set(bytes) }
