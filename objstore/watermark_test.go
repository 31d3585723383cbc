package objstore

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The log warns before the store is full, again when the room has halved, and says when it is over;
// nothing twice in a minute.
func TestWatermarkMessages(t *testing.T) {
	var log bytes.Buffer
	a := newSpaceAccount(1<<30, spaceDeps{log: slog.New(slog.NewTextHandler(&log, nil))})
	start := time.Unix(1, 0)
	const low, full, again, room = "running out of space", "the store is full", "accepts writes again", "has space again"
	for _, c := range []struct {
		at    time.Duration
		free  int64
		state SpaceState
		want  []string
	}{
		{0, 500 << 20, SpaceOK, nil},
		{time.Second, 100 << 20, SpaceLow, []string{low}},
		{2 * time.Second, 90 << 20, SpaceLow, nil},
		{3 * time.Second, 40 << 20, SpaceLow, nil}, // halved, but said a moment ago
		{2 * time.Minute, 40 << 20, SpaceLow, []string{low}},
		{4 * time.Minute, 1 << 20, SpaceFull, []string{full}},
		{5 * time.Minute, fullMark + 1, SpaceFull, nil}, // a quarter more ends it
		{6 * time.Minute, 500 << 20, SpaceOK, []string{again, room}},
		{7 * time.Minute, 500 << 20, SpaceOK, nil},
	} {
		log.Reset()
		a.watch(c.free, start.Add(c.at))
		if a.mark.state != c.state {
			t.Errorf("after %v with %d bytes: %s, want %s", c.at, c.free, a.mark.state, c.state)
		}
		if n := strings.Count(log.String(), "\n"); n != len(c.want) {
			t.Errorf("after %v: %d messages, want %d:\n%s", c.at, n, len(c.want), &log)
		}
		for _, w := range c.want {
			if !strings.Contains(log.String(), w) {
				t.Errorf("after %v: no %q in\n%s", c.at, w, &log)
			}
		}
	}
}
