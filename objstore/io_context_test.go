package objstore

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// Reads and writes end with their context, also while they wait for room, and what a write did not
// count was not written.
func TestContextEndsIO(t *testing.T) {
	const tail = 1 << 20
	r := newRig(t, Options{LeafCache: smallestLeaves, SettleDelay: -1, TailSoft: tail / 2, TailHard: tail})
	v := r.volume("v", 16<<20)
	must(t, r.s.Quiesce()) // nothing settles
	data := randomBytes(1, 64<<10)
	written := int64(0)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		n, err := v.WriteContext(ctx, data, written)
		cancel()
		written += int64(n)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		must(t, err)
		if written > 8*tail {
			t.Fatalf("%d bytes were written with a tail of at most %d", written, tail)
		}
	}
	for name, wait := range map[string]func(ctx context.Context) error{
		"a part of a sector": func(ctx context.Context) error { _, err := v.WriteContext(ctx, data[:100], 8<<20); return err },
		"zeroes":             func(ctx context.Context) error { return v.ZeroContext(ctx, 0, 4<<20) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("writing %s: %v", name, err)
		}
		cancel()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := v.ReadContext(gone, make([]byte, 4096), 0); n > 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("a read: %d bytes, %v", n, err)
	}
	got := make([]byte, written+1<<20)
	if _, err := v.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < written; at += int64(len(data)) {
		n := min(int64(len(data)), written-at)
		if !bytes.Equal(got[at:at+n], data[:n]) {
			t.Fatalf("what was written at %d has changed", at)
		}
	}
	if !bytes.Equal(got[written:], make([]byte, 1<<20)) {
		t.Error("a write that was given up has written")
	}
	r.s.Resume()
	if _, err := v.WriteAt(data, written); err != nil {
		t.Fatal(err)
	}
}
