package protocol

import (
	"errors"
	"fmt"
	"time"

	"varve/objstore"
)

// CheckStore says what a check reads, and how fast. The zero value is a check of everything.
type CheckStore struct {
	Rate    int64     `json:"rate,omitempty"`    // bytes per second; 0: no limit
	Percent int       `json:"percent,omitempty"` // of the store; 0: all
	Since   time.Time `json:"since,omitzero"`    // what was not verified since then; zero: all
	Resume  bool      `json:"resume,omitempty"`  // go on with an interrupted check
}

// Options are those of the store.
func (c CheckStore) Options() objstore.CheckOptions {
	return objstore.CheckOptions{Rate: c.Rate, Percent: c.Percent, Since: c.Since, Resume: c.Resume}
}

// Check returns an error if no check can be like that.
func (c CheckStore) Check() error {
	o := c.Options()
	return o.Validate()
}

// Maintenance changes settings of the store's maintenance. A null leaves a setting unchanged.
type Maintenance struct {
	ScrubEvery  *int64 `json:"scrub_every,omitempty"`  // seconds; 0: never
	ScrubRate   *int64 `json:"scrub_rate,omitempty"`   // bytes per second; 0: no limit
	CollectRate *int64 `json:"collect_rate,omitempty"` // bytes per second; 0: the default, objstore.NoCollectLimit: no limit
}

// Apply returns the settings as they are after the change.
func (m Maintenance) Apply(s objstore.Maintenance) objstore.Maintenance {
	if m.ScrubEvery != nil {
		s.ScrubEvery = time.Duration(*m.ScrubEvery) * time.Second
	}
	if m.ScrubRate != nil {
		s.ScrubRate = *m.ScrubRate
	}
	if m.CollectRate != nil {
		s.CollectRate = *m.CollectRate
	}
	return s
}

// longestEvery is the longest time between two scrubs, in seconds: a hundred years.
const longestEvery = 100 * 366 * 24 * 3600

// Check returns an error if nothing is changed, or a setting is out of range.
func (m Maintenance) Check() error {
	if m == (Maintenance{}) {
		return errors.New("no setting is changed")
	}
	if e := m.ScrubEvery; e != nil && (*e < 0 || *e > longestEvery) {
		return fmt.Errorf("a scrub every %d seconds; use at most %d, or 0 for none", *e, longestEvery)
	}
	s := m.Apply(objstore.Maintenance{})
	return s.Validate()
}
