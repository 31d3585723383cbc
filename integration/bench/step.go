package main

import (
	"fmt"
	"slices"
)

// step is one fio run on each contender.
type step struct {
	Name   string `json:"name"`
	RW     string `json:"rw"` // fio's: read, write, randread, randwrite
	Block  int    `json:"block"`
	Depth  int    `json:"depth"`
	Fsync  bool   `json:"fsync,omitempty"`  // after every write
	Refill bool   `json:"refill,omitempty"` // new random bytes for every write, made by fio on the same processor
	Limit  int64  `json:"limit,omitempty"`  // bytes after which the run ends, on every contender; 0: by time
	Title  string `json:"title"`            // of the table's row
	Part   string `json:"part,omitempty"`   // only for the contenders that take part in it
}

// The parts of a measurement. Each has its steps, and contenders that take them.
const (
	partMain    = ""
	partCopy    = "copy modes" // of the loop target, by request size
	partNull    = "null"       // the null target with and without a copy, by request size
	partLoop    = "loop"       // the loop target with and without a copy
	partTargets = "targets"    // the targets that do more than loop
)

// allSteps is the order of a round.
func allSteps(size int64) []step {
	return slices.Concat(mainSteps(size), copySteps(), claimSteps(), targetSteps(size/smaller))
}

// bandwidth reports whether a step is shown in MB/s, not in IOPS.
func (s step) bandwidth() bool { return s.Block >= 64<<10 }

func (s step) writes() bool { return s.RW == "write" || s.RW == "randwrite" }

// mainSteps is the order of a round. Sequential steps come before random writes, which leave a
// log-structured volume in pieces. A fixed amount is written in a step, so that a store that never
// overwrites stays within the tmpfs.
func mainSteps(size int64) []step {
	return []step{
		{Name: "write512k", Title: "write 512k QD8, first", RW: "write", Block: 512 << 10, Depth: 8, Limit: size},
		{Name: "write64k", Title: "write 64k QD8", RW: "write", Block: 64 << 10, Depth: 8, Limit: size},
		{Name: "read512k", Title: "read 512k QD8", RW: "read", Block: 512 << 10, Depth: 8},
		{Name: "read64k", Title: "read 64k QD8", RW: "read", Block: 64 << 10, Depth: 8},
		{Name: "randread4k-qd32", Title: "random read 4k QD32", RW: "randread", Block: 4 << 10, Depth: 32},
		{Name: "randread4k-qd1", Title: "random read 4k QD1", RW: "randread", Block: 4 << 10, Depth: 1},
		{Name: "randwrite4k-qd32", Title: "random write 4k QD32", RW: "randwrite", Block: 4 << 10, Depth: 32, Limit: size / 4},
		{Name: "randwrite4k-qd1", Title: "random write 4k QD1", RW: "randwrite", Block: 4 << 10, Depth: 1, Limit: size / 8},
		{Name: "fsync4k", Title: "random write 4k QD1, each fsynced", RW: "randwrite", Block: 4 << 10, Depth: 1, Fsync: true, Limit: size / 32},
		{Name: "refill64k", Title: "write 64k QD8, refilled", RW: "write", Block: 64 << 10, Depth: 8, Refill: true, Limit: size},
		{Name: "refill512k", Title: "write 512k QD8, refilled, sustained", RW: "write", Block: 512 << 10, Depth: 8, Refill: true, Limit: 2 * size},
	}
}

// copySteps compare the copy modes of the loop target at each request size.
func copySteps() []step {
	var steps []step
	for _, rw := range []string{"randread", "randwrite"} {
		for kib := 4; kib <= 1024; kib *= 4 {
			steps = append(steps, step{
				Name: fmt.Sprintf("copy-%s-%dk", rw, kib), Title: fmt.Sprintf("%s %dk QD8", rw, kib),
				RW: rw, Block: kib << 10, Depth: 8, Part: partCopy,
			})
		}
	}
	return steps
}

// claimSteps repeat what was claimed for zero copy when it was proposed: of a null target at all
// request sizes, and of a loop target over a file in memory at 64k and 512k.
func claimSteps() []step {
	var steps []step
	for _, rw := range []string{"read", "write"} {
		for kib := 4; kib <= 1024; kib *= 2 {
			steps = append(steps, claimStep(partNull, rw, kib))
		}
		for _, kib := range []int{64, 512} {
			steps = append(steps, claimStep(partLoop, rw, kib))
		}
	}
	return steps
}

func claimStep(part, rw string, kib int) step {
	return step{
		Name: fmt.Sprintf("claim-%s-%s-%dk", part, rw, kib), Title: fmt.Sprintf("%s, %s %s QD8", part, rw, blockName(kib<<10)),
		RW: rw, Block: kib << 10, Depth: 8, Part: part,
	}
}

// targetSteps compare the targets that map, copy or allocate with loop, on devices of size bytes.
func targetSteps(size int64) []step {
	steps := []step{
		{Name: "first", Title: "write 64k QD8, first", RW: "write", Block: 64 << 10, Depth: 8, Limit: size},
		{Name: "write64k", Title: "write 64k QD8", RW: "write", Block: 64 << 10, Depth: 8},
		{Name: "read64k", Title: "read 64k QD8", RW: "read", Block: 64 << 10, Depth: 8},
		{Name: "randread4k", Title: "random read 4k QD32", RW: "randread", Block: 4 << 10, Depth: 32},
		{Name: "randwrite4k", Title: "random write 4k QD32", RW: "randwrite", Block: 4 << 10, Depth: 32},
		{Name: "fsync4k", Title: "random write 4k QD1, each fsynced", RW: "randwrite", Block: 4 << 10, Depth: 1, Fsync: true},
	}
	for i := range steps {
		steps[i].Name, steps[i].Part = "target-"+steps[i].Name, partTargets
	}
	return steps
}
