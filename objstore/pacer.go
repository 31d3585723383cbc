package objstore

import (
	"context"
	"time"
)

const (
	paceBytes   = 2 << 20                // settling looks for requests this often
	pacePause   = 10 * time.Millisecond  // and gives way to them for this long,
	paceLongest = 200 * time.Millisecond // but continues after this
)

// pacer makes settling give way to requests. Only the settler's goroutine uses it.
type pacer struct {
	bytes    int    // settled since the last look
	requests uint64 // their count at that look
}

// pace is called before n more bytes settle. It waits while requests come in, unless settling
// presses. It looks for them at every paceBytes only, since the clock and the volumes' locks cost
// time too; for the end of ctx at each call.
func (p *pacer) pace(ctx context.Context, n int, requests func() uint64, pressing func() bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.bytes += n; p.bytes < paceBytes {
		return nil
	}
	p.bytes = 0
	for waited := time.Duration(0); waited < paceLongest; waited += pacePause {
		now := requests()
		busy := now != p.requests
		if p.requests = now; !busy || pressing() {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pacePause):
		}
	}
	return nil
}
