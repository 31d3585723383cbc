package refs

import (
	"fmt"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/retention"
)

// RetentionPolicy says which past states of a volume are kept, and how often a snapshot is taken of
// it. The zero value keeps none and takes none.
type RetentionPolicy struct {
	KeepLast      int   `json:"keep_last,omitempty"`
	KeepHourly    int   `json:"keep_hourly,omitempty"`
	KeepDaily     int   `json:"keep_daily,omitempty"`
	KeepWeekly    int   `json:"keep_weekly,omitempty"`
	SnapshotEvery int64 `json:"snapshot_every,omitempty"` // seconds; 0: none is taken
}

// Bounds of RetentionPolicy.SnapshotEvery, in seconds.
const (
	MinSnapshotEvery = 60
	MaxSnapshotEvery = 10 * 366 * 24 * 60 * 60
)

// Keep returns the rules for what is kept.
func (p RetentionPolicy) Keep() retention.Keep {
	return retention.Keep{Last: p.KeepLast, Hourly: p.KeepHourly, Daily: p.KeepDaily, Weekly: p.KeepWeekly}
}

// Check returns ErrInvalid if a number is out of range.
func (p RetentionPolicy) Check() error {
	for name, n := range map[string]int{"last": p.KeepLast, "hourly": p.KeepHourly, "daily": p.KeepDaily, "weekly": p.KeepWeekly} {
		if n < 0 || n > retention.MaxCount {
			return fmt.Errorf("keep-%s %d: %w: use 0 to %d", name, n, disk.ErrInvalid, retention.MaxCount)
		}
	}
	if n := p.SnapshotEvery; n != 0 && (n < MinSnapshotEvery || n > MaxSnapshotEvery) {
		return fmt.Errorf("snapshot every %d seconds: %w: use %d seconds to 10 years, or 0 for none", n, disk.ErrInvalid, MinSnapshotEvery)
	}
	return nil
}

// setPolicy sets the policy of a volume; nil is the zero value.
func (v *Volume) setPolicy(p *RetentionPolicy) error {
	if p == nil {
		p = &RetentionPolicy{}
	}
	if err := p.Check(); err != nil {
		return err
	}
	v.Policy = *p
	return nil
}
