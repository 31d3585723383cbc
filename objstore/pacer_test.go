package objstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Settling gives way as long as requests come in, but not for ever; not where it presses; and it
// looks only now and then.
func TestPacer(t *testing.T) {
	busy := func() func() uint64 {
		var n uint64
		return func() uint64 { n++; return n }
	}
	idle := func() uint64 { return 7 }
	for name, c := range map[string]struct {
		bytes    int
		requests func() uint64
		pressing bool
		want     time.Duration
	}{
		"busy":               {paceBytes, busy(), false, paceLongest},
		"busy, and presses":  {paceBytes, busy(), true, 0},
		"idle":               {paceBytes, idle, false, pacePause}, // the first look finds requests that were there before
		"too little settled": {paceBytes - 1, busy(), false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var p pacer
			start := time.Now()
			must(t, p.pace(t.Context(), c.bytes, c.requests, func() bool { return c.pressing }))
			if d := time.Since(start); d != c.want {
				t.Errorf("%s: waited %v, want %v", name, d, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var p pacer
	if err := p.pace(ctx, paceBytes, idle, func() bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}
