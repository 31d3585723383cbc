package objstore

import "time"

// policyClock tells the time by which retention policies count hours, days and weeks. It begins with
// what the wall clock shows, and advances with the time since boot, in one opening of the store and
// from one to the next (the file of past states says how the two were related). After another boot
// it begins again with the wall clock, or with the newest time that it has told, if that is later.
// So it never goes back, and what is done to the wall clock it notices at a boot alone: a clock that
// is set to the next year and back costs nothing, since states keep their order, and no period is
// counted twice.
//
// Set once, before anybody asks.
type policyClock struct {
	start   time.Time
	began   time.Duration // elapsed at start
	elapsed func() time.Duration
}

// newPolicyClock returns a clock that shows a time now.
func newPolicyClock(now time.Time, elapsed func() time.Duration) *policyClock {
	return &policyClock{start: now.UTC().Round(0), began: elapsed(), elapsed: elapsed} // Round drops the monotonic part
}

func (c *policyClock) now() time.Time { return c.start.Add(c.elapsed() - c.began) }
