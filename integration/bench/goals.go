package main

import "slices"

// goal is a ratio that varve is to reach.
type goal struct {
	ours, theirs string
	atLeast      float64
	steps        []string
}

// verdict compares a goal for one step with two measurements: the throughput, and the I/Os per
// second of processor time, which a busy neighbour disturbs less.
type verdict struct {
	Step    string  `json:"step"`
	Ours    string  `json:"ours"`
	Theirs  string  `json:"theirs"`
	Goal    float64 `json:"goal"`
	Ratio   float64 `json:"ratio"`
	CPURate float64 `json:"cpu_ratio"` // 0: not measured
}

// outcome in words.
func (v verdict) outcome() string {
	byTime, byCPU := v.Ratio >= v.Goal, v.CPURate >= v.Goal
	switch {
	case byTime && (byCPU || v.CPURate == 0):
		return "met"
	case byTime:
		return "met in throughput only"
	case byCPU:
		return "met in processor time only"
	}
	return "falls short"
}

var (
	streams  = []string{"write512k", "write64k", "read512k", "read64k", "refill64k", "refill512k"}
	shallow  = []string{"randread4k-qd1", "randwrite4k-qd1"}
	deep     = []string{"randread4k-qd32", "randwrite4k-qd32"}
	synced   = []string{"fsync4k"}
	all      = slices.Concat(streams, deep, shallow, synced)
	nullable = slices.Concat(streams[:4], deep, shallow)
)

// goals are those of the project's plan. Those against an earlier varve hold in any comparison with one:
// no path gets slower.
func goals() []goal {
	var gs []goal
	for _, ours := range []string{"varve volume", "varve loop", "varve null"} {
		gs = append(gs, goal{ours, ours + beforeSuffix, 0.95, all})
	}
	for _, ours := range []string{"varve volume", "varve loop"} {
		gs = append(gs,
			goal{ours, "kublk loop", 0.90, streams},
			goal{ours, "kublk loop", 0.85, slices.Concat(deep, shallow)})
	}
	return append(gs,
		goal{"varve null", "kublk null", 0.95, nullable},
		goal{"varve volume", "dm-vdo", 5, []string{"write512k", "refill512k"}},
		goal{"varve volume", "dm-vdo", 2, slices.Concat(deep, shallow)},
		goal{"varve volume", "dm-thin", 1, all})
}

// verdicts compares the goals with the medians, and leaves out what was not measured.
func (r *results) verdicts() []verdict {
	var vs []verdict
	for _, g := range goals() {
		for _, s := range g.steps {
			ours, ok1 := r.median(s, g.ours, iops)
			theirs, ok2 := r.median(s, g.theirs, iops)
			if !ok1 || !ok2 || theirs == 0 {
				continue
			}
			v := verdict{Step: s, Ours: g.ours, Theirs: g.theirs, Goal: g.atLeast, Ratio: ours / theirs}
			ourCPU, _ := r.median(s, g.ours, hostCPU)
			theirCPU, _ := r.median(s, g.theirs, hostCPU)
			if ourCPU > 0 {
				v.CPURate = theirCPU / ourCPU
			}
			vs = append(vs, v)
		}
	}
	return vs
}
