package command

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{"30d": 720 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute, "2w": 336 * time.Hour, "5s": 5 * time.Second} {
		if d, err := parseDuration(s); err != nil || d != want {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "d", "-1d", "1.5d", "1 d", "30", "1y", "99999999999999999999d", "36501d", "0x1d"} {
		if d, err := parseDuration(s); err == nil {
			t.Errorf("%q is %v", s, d)
		}
	}
	for d, want := range map[time.Duration]string{720 * time.Hour: "30d", 36 * time.Hour: "36h", 90 * time.Minute: "90m", 61 * time.Second: "1m1s"} {
		if s := formatDuration(d); s != want {
			t.Errorf("%v is written %s", d, s)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"1d": now.Add(-24 * time.Hour), "2026-02-01T10:00:00Z": time.Date(2026, 2, 1, 10, 0, 0, 0, time.UTC),
		"2026-02-01": time.Date(2026, 2, 1, 0, 0, 0, 0, time.Local), "2026-02-01 10:30": time.Date(2026, 2, 1, 10, 30, 0, 0, time.Local),
	} {
		if got, err := parseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "yesterday", "2026-13-01", "1 d"} {
		if got, err := parseTime(s, now); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]int64{"100M": 100 << 20, "1GiB/s": 1 << 30, "none": 0, "512": 512} {
		if n, err := parseRate(s); err != nil || n != want {
			t.Errorf("%s: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "M", "5/s/s", "/s", "100M/h"} {
		if n, err := parseRate(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
}
