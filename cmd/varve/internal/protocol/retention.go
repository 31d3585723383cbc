package protocol

import (
	"fmt"

	"varve/objstore"
)

// checkSnapshotOrState is CheckName for a snapshot that is read, which may be a past state of its
// volume too.
func checkSnapshotOrState(name string) error {
	if objstore.IsStateName(name) {
		return nil
	}
	return CheckName(name)
}

// ChangesRetention reports whether anything is to be changed.
func (c RetentionChange) ChangesRetention() bool { return c != RetentionChange{} }

// Retention returns a policy as changed.
func (c RetentionChange) Retention(r objstore.Retention) objstore.Retention {
	set := func(to *int, value *int) {
		if value != nil {
			*to = *value
		}
	}
	set(&r.KeepLast, c.KeepLast)
	set(&r.KeepHourly, c.KeepHourly)
	set(&r.KeepDaily, c.KeepDaily)
	set(&r.KeepWeekly, c.KeepWeekly)
	if c.SnapshotEvery != nil {
		r.SnapshotEvery = *c.SnapshotEvery
	}
	return r
}

// Check returns an error if the name is invalid.
func (p Prune) Check() error {
	if p.Volume == "" {
		return nil
	}
	if err := CheckName(p.Volume); err != nil {
		return fmt.Errorf("volume %q: %w", p.Volume, err)
	}
	return nil
}

// Waits reports whether the response waits for settling, as that of a dry run does for what its
// snapshots would free.
func (p Prune) Waits() bool { return p.DryRun }
