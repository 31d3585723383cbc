package objstore

import (
	"fmt"
	"sync"
)

// Side is a way into a volume. The kernel caches pages for each side as if nothing else wrote the
// volume, so that only one side may write.
type Side int

// The sides of a volume.
const (
	SideDevice Side = iota // a block device
	SideLive               // its live file in mounts, open for writing
	sides
)

// taken returns what keeps the other side out, for an error.
func (s Side) taken() string {
	return [sides]string{"it is attached to a device", "its live file is open for writing in a mount"}[s]
}

// Claim keeps the other side from claiming the volume, until release or Close. ErrInUse if the
// other side has it already. Any number of users can claim one side. A user that claims no side
// excludes no other, and none excludes it.
func (v *Volume) Claim(side Side) (release func(), err error) {
	return v.s.catalog.claim(v, side)
}

func (c *catalog) claim(v *Volume, side Side) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := sides - 1 - side; v.claims[other] > 0 {
		return nil, fmt.Errorf("volume %s: %w: %s", v.Name(), ErrInUse, other.taken())
	}
	v.claims[side]++
	v.claimed[side]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if v.claimed[side] > 0 { // not given up by Close
			v.claimed[side]--
			v.claims[side]--
		}
	}), nil
}

// unclaim releases what a user of a volume has claimed.
func (c *catalog) unclaim(v *Volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for side, n := range v.claimed {
		v.claims[side] -= n
	}
	v.claimed = [sides]int{}
}

// Changes counts the writes and discards of the volume since the store was opened: a reader that
// keeps a copy can tell by it whether that may be old.
func (v *volume) Changes() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.appended
}
