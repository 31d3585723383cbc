// Package retention decides which of a volume's past states a policy keeps: the rules of restic's
// forget, which users of backups know.
//
// A policy counts in four ways. Each goes through the states from the newest to the oldest, and
// keeps the newest state of every period, until it has kept as many as it is to keep:
//
//	last      every state is a period of its own
//	hourly    hours, days and weeks of UTC; a week begins on Monday. A period without a state counts
//	daily     for nothing: three days of work a week are three of the daily ones
//	weekly
//
// A state is kept if any of the four keeps it. One that has counts left when it comes to the oldest
// state keeps that too, so that what is kept reaches back as far as it can.
//
// "Newest" is an order of sequence. A state carries a policy time, which never goes back in that
// order, whatever was done to the clocks (objstore's policyClock), so that a period is a run of
// states.
package retention

import "time"

// MaxCount is the largest number that a policy may keep in one way.
const MaxCount = 1000

// Keep says how many states are kept, in each way.
type Keep struct {
	Last, Hourly, Daily, Weekly int
}

// None reports whether nothing is said about what to keep.
func (k Keep) None() bool { return k == Keep{} }

// Choose reports for each state, of which times has the policy time, the newest first, whether it
// is kept.
func (k Keep) Choose(times []time.Time) []bool {
	kept := make([]bool, len(times))
	for _, way := range []struct {
		count  int
		period func(i int) int64
	}{
		{k.Last, func(i int) int64 { return int64(i) }},
		{k.Hourly, func(i int) int64 { return floor(times[i].Unix(), hour) }},
		{k.Daily, func(i int) int64 { return floor(times[i].Unix(), day) }},
		// The epoch was a Thursday: its week began three days before.
		{k.Weekly, func(i int) int64 { return floor(times[i].Unix()+3*day, 7*day) }},
	} {
		left, last := way.count, int64(0)
		for i := 0; i < len(times) && left > 0; i++ {
			p := way.period(i)
			if i > 0 && p == last && i < len(times)-1 {
				continue
			}
			kept[i], last = true, p
			left--
		}
	}
	return kept
}

// Dropped returns the states, the oldest first, that are not kept. at returns the policy time of one.
func Dropped[S any](k Keep, states []S, at func(S) time.Time) []S {
	n := len(states)
	times := make([]time.Time, n)
	for i, st := range states {
		times[n-1-i] = at(st)
	}
	kept := k.Choose(times)
	var out []S
	for i, st := range states {
		if !kept[n-1-i] {
			out = append(out, st)
		}
	}
	return out
}

// Seconds.
const (
	hour = 60 * 60
	day  = 24 * hour
)

// floor returns n / d, rounded down.
func floor(n, d int64) int64 {
	q := n / d
	if n%d < 0 {
		q--
	}
	return q
}
