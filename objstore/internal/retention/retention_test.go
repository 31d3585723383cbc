package retention

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func times(list ...string) []time.Time {
	var out []time.Time
	for _, s := range list {
		t, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			panic(err)
		}
		out = append(out, t)
	}
	return out
}

// The cases of restic's documentation and tests, where they are about these four.
func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name  string
		keep  Keep
		times []time.Time // newest first
		want  []int
	}{
		{"nothing said", Keep{}, times("2026-11-28 10:00", "2026-11-28 09:00"), nil},
		{"none there", Keep{Last: 3}, nil, nil},
		{"last", Keep{Last: 2}, times("2026-11-28 10:02", "2026-11-28 10:01", "2026-11-28 10:00"), []int{0, 1}},
		{
			"the newest of each hour, and the oldest",
			Keep{Hourly: 10},
			times("2026-11-28 10:59", "2026-11-28 10:01", "2026-11-28 10:00", "2026-11-28 09:59", "2026-11-28 09:30", "2026-11-28 09:00"),
			[]int{0, 3, 5},
		},
		{
			"no more than asked for",
			Keep{Hourly: 2},
			times("2026-11-28 10:59", "2026-11-28 10:01", "2026-11-28 10:00", "2026-11-28 09:59", "2026-11-28 08:30"),
			[]int{0, 3},
		},
		{
			"days without a state count for nothing",
			Keep{Daily: 3},
			times("2026-11-28 10:00", "2026-11-28 09:00", "2026-11-20 10:00", "2026-10-01 10:00", "2026-09-01 10:00"),
			[]int{0, 2, 3},
		},
		{ // 2026-11-23 is a Monday
			"weeks begin on Monday",
			Keep{Weekly: 2},
			times("2026-11-23 00:00", "2026-11-22 23:59", "2026-11-16 00:00", "2026-11-15 23:59"),
			[]int{0, 1},
		},
		{
			"any of them",
			Keep{Last: 1, Daily: 2, Weekly: 2},
			times("2026-11-28 10:00", "2026-11-28 09:00", "2026-11-27 10:00", "2026-11-26 10:00", "2026-11-20 10:00", "2026-11-13 10:00"),
			[]int{0, 2, 4},
		},
		{
			"before 1970",
			Keep{Daily: 2, Weekly: 1},
			times("1970-01-01 00:00", "1969-12-31 23:59", "1969-12-31 00:00", "1969-12-30 00:00"),
			[]int{0, 1},
		},
	} {
		var got []int
		for i, kept := range c.keep.Choose(c.times) {
			if kept {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: keeps %v, want %v", c.name, got, c.want)
		}
	}
}

// A policy that is applied whenever a state is made keeps, in the end, what it would have kept if
// all states had been there: but for the oldest, which it keeps for its counts that are left.
func TestChooseAsStatesAreMade(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		k := Keep{rng.IntN(4), rng.IntN(5), rng.IntN(4), rng.IntN(3)}
		at := time.Unix(rng.Int64N(1<<31), 0)
		var all, thinned []time.Time // newest first
		for range 200 {
			at = at.Add(time.Duration(rng.Int64N(int64([]time.Duration{time.Minute, time.Hour, 50 * time.Hour}[rng.IntN(3)]))))
			all, thinned = slices.Insert(all, 0, at), slices.Insert(thinned, 0, at)
			var left []time.Time
			for i, kept := range k.Choose(thinned) {
				if kept {
					left = append(left, thinned[i])
				}
			}
			thinned = left
		}
		var want []time.Time
		for i, kept := range k.Choose(all) {
			if kept && (i < len(all)-1) {
				want = append(want, all[i])
			}
		}
		for _, w := range want {
			if !slices.ContainsFunc(thinned, w.Equal) {
				t.Fatalf("%+v has lost %v: has %v, want %v", k, w, thinned, want)
			}
		}
		if most := k.Last + k.Hourly + k.Daily + k.Weekly; len(thinned) > most {
			t.Fatalf("%+v keeps %d states", k, len(thinned))
		}
	}
}
