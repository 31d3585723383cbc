package objstore

import (
	"testing"
	"time"
)

// A cycle pauses for as long as it works, however few the bytes are, unless there is no limit.
func TestCollectRateLeavesHalf(t *testing.T) {
	for _, c := range []struct {
		rate   int64
		pauses bool
	}{{1 << 50, true}, {0, true}, {-1, false}, {NoCollectLimit, false}} {
		var r collectRate
		r.set(c.rate)
		r.begin()
		begun := r.since
		var worked, paused time.Duration
		for range 12 {
			began := time.Now()
			for time.Since(began) < 5*time.Millisecond {
			}
			working := time.Now()
			if err := r.take(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			worked += min(working.Sub(began), collectNap)
			paused += time.Since(working)
		}
		// What was worked last is not paid for yet, nor what lies between the looks at the clock.
		if least := worked*3/4 - 2*collectBurst; c.pauses && (paused < least || paused < collectBurst) {
			t.Errorf("rate %d: paused for %v, and worked for %v", c.rate, paused, worked)
		}
		if c.pauses == r.since.Equal(begun) {
			t.Errorf("rate %d: it has paused: %v", c.rate, !c.pauses)
		}
	}
}
