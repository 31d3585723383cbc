package main

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStuckWatch(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []string
		ended  time.Duration // 0: it is not
	}{
		{"well", []string{"=== RUN TestA\n", "--- FAIL: TestA (0.1s)\n", "it said panic: test timed out after 1s\n"}, 0},
		{"stuck", []string{"panic: test timed out after 24m0s\n"}, 5 * time.Second},
		{"in pieces", []string{"x\npanic: test ti", "med out a", "fter 1m0s\ngoroutine 1"}, 7 * time.Second},
		{"with its marker", []string{"\x16panic: test timed out after 24m0s\n", "goroutine 1\n"}, 6 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, ended := time.Now(), time.Duration(0)
				w := &stuckWatch{quiet: 5 * time.Second, end: func() { ended = time.Since(began) }}
				for i, s := range c.writes {
					if i > 0 {
						time.Sleep(time.Second) // the report is still being written
					}
					if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
						t.Fatal(n, err)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if ended != c.ended {
					t.Errorf("ended after %v, want %v", ended, c.ended)
				}
			})
		})
	}
}

// A program that ended has no machine to end.
func TestStuckWatchStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWatch{quiet: 5 * time.Second, end: func() { t.Error("ended") }}
		_, _ = w.Write([]byte("panic: test timed out after 1s\n"))
		w.stop()
		time.Sleep(time.Minute)
	})
}
