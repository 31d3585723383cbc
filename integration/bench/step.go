package main

import "fmt"

// step is one fio run on each contender.
type step struct {
	Name    string `json:"name"`
	RW      string `json:"rw"` // fio's: read, write, randread, randwrite
	Block   int    `json:"block"`
	Depth   int    `json:"depth"`
	Fsync   bool   `json:"fsync,omitempty"`   // after every write
	Refill  bool   `json:"refill,omitempty"`  // new random bytes for every write, made by fio on the same processor
	Limit   int64  `json:"limit,omitempty"`   // bytes after which the run ends, on every contender; 0: by time
	Title   string `json:"title"`             // of the table's row
	Copying bool   `json:"copying,omitempty"` // only for the contenders that compare copy modes
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
				RW: rw, Block: kib << 10, Depth: 8, Copying: true,
			})
		}
	}
	return steps
}
