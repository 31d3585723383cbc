package command

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// durationForm is a whole number of one unit.
var durationForm = regexp.MustCompile(`^([0-9]+)(s|m|h|d|w)$`)

var durationUnits = map[string]time.Duration{
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// longestDuration is the longest that a flag takes.
const longestDuration = 100 * 365 * 24 * time.Hour

// parseDuration reads durations like 30d, 12h and 90m.
func parseDuration(s string) (time.Duration, error) {
	m := durationForm.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a duration; write one like 30d, 12h or 90m", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if unit := durationUnits[m[2]]; err == nil && n <= int64(longestDuration/unit) {
		return time.Duration(n) * unit, nil
	}
	return 0, fmt.Errorf("%q is too long; durations are at most 100 years", s)
}

// formatDuration formats a duration in the largest unit of which it is a whole number.
func formatDuration(d time.Duration) string {
	for _, unit := range []string{"d", "h", "m"} {
		if u := durationUnits[unit]; d >= u && d%u == 0 {
			return strconv.FormatInt(int64(d/u), 10) + unit
		}
	}
	return d.String()
}

// parseTime reads a point in time: 2026-03-01, 2026-03-01 12:00, RFC 3339, or how long ago it is,
// like 30d.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := parseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time like 2026-03-01 or 2026-03-01T12:00:00Z, nor a duration like 30d", s)
	}
	return t, nil
}

// parseRate reads a number of bytes per second, like 100M or 100MiB/s; none is 0, no limit.
func parseRate(s string) (int64, error) {
	if s == "none" {
		return 0, nil
	}
	n, err := parseSize(strings.TrimSuffix(s, "/s"))
	if err != nil {
		return 0, fmt.Errorf("%q is not a rate; write bytes per second like 100M or 100MiB/s, or none", s)
	}
	if n == 0 {
		return 0, fmt.Errorf("%q would never end; write none for no limit", s)
	}
	return n, nil
}

// formatRate formats bytes per second.
func formatRate(n int64) string {
	if n == 0 {
		return "no limit"
	}
	return formatSize(n) + "/s"
}
