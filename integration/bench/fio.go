package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"
)

// sample is the result of one fio run.
type sample struct {
	IOs       float64 `json:"ios"`
	IOPS      float64 `json:"iops"`
	MBps      float64 `json:"mbps"`             // 10^6 bytes a second
	Mean      float64 `json:"mean_us"`          // completion latency
	P99       float64 `json:"p99_us"`           // completion latency
	HostCPU   float64 `json:"host_us_per_io"`   // processor time of the whole machine as its host sees it
	Server    float64 `json:"server_us_per_io"` // the server process alone, as the guest sees it; 0 where there is none
	Switches  float64 `json:"switches_per_io"`  // voluntary context switches of the server
	Spin      float64 `json:"spin_ms"`          // of a fixed piece of arithmetic, the slower of before and after
	Slowdown  float64 `json:"slowdown"`         // the same against its best
	SettleCPU float64 `json:"settle_cpu_s"`     // processor time of settling what was written, after the run
	Window    window  `json:"window"`
	Settling  window  `json:"settling"`
}

// settleSeconds is how long settling took after the run.
func (s sample) settleSeconds() float64 { return float64(s.Settling.To-s.Settling.From) / 1e9 }

// fioReport is the part of fio's JSON that is used.
type fioReport struct {
	Jobs []struct {
		Error int     `json:"error"`
		Read  fioSide `json:"read"`
		Write fioSide `json:"write"`
	} `json:"jobs"`
}

type fioSide struct {
	IOPS    float64 `json:"iops"`
	Bytes   float64 `json:"io_bytes"`
	IOs     float64 `json:"total_ios"`
	Runtime float64 `json:"runtime"` // ms
	Clat    struct {
		Mean       float64            `json:"mean"`
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// fioArgs is the command line of a step. Without Refill fio's default still changes every 512 bytes
// of a buffer before it is written, which costs little and leaves nothing to deduplicate.
func fioArgs(s step, path string, size int64, runtime time.Duration, seed int) []string {
	args := []string{
		"--name=bench", "--filename=" + path, "--ioengine=io_uring", "--direct=1", "--thread",
		"--rw=" + s.RW, fmt.Sprintf("--bs=%d", s.Block), fmt.Sprintf("--iodepth=%d", s.Depth),
		fmt.Sprintf("--size=%d", size), fmt.Sprintf("--randseed=%d", seed), "--allrandrepeat=0",
		"--norandommap", "--random_generator=tausworthe64", "--output-format=json",
	}
	if s.Limit > 0 {
		// A contender that is far behind ends by time.
		args = append(args, fmt.Sprintf("--io_size=%d", s.Limit), "--runtime="+milliseconds(3*runtime))
	} else {
		args = append(args, "--time_based", "--runtime="+milliseconds(runtime))
	}
	if s.Fsync {
		args = append(args, "--fsync=1")
	}
	if s.Refill {
		args = append(args, "--refill_buffers")
	}
	return args
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// runFio runs one step on the device at path.
func runFio(ctx context.Context, args []string) (fioSide, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return fioSide{}, fmt.Errorf("run fio %v: %w: %s", args, err, errs.Bytes())
	}
	// fio may print notes before its JSON.
	if i := bytes.IndexByte(out, '{'); i > 0 {
		out = out[i:]
	}
	var rep fioReport
	if err := json.Unmarshal(out, &rep); err != nil {
		return fioSide{}, fmt.Errorf("read fio's report: %w", err)
	}
	if len(rep.Jobs) != 1 || rep.Jobs[0].Error != 0 {
		return fioSide{}, fmt.Errorf("run fio %v: its report has an error: %.400s", args, out)
	}
	side := rep.Jobs[0].Read
	if rep.Jobs[0].Write.IOs > 0 {
		side = rep.Jobs[0].Write
	}
	if side.IOs == 0 || side.Runtime == 0 {
		return fioSide{}, fmt.Errorf("run fio %v: no I/O was done", args)
	}
	return side, nil
}
