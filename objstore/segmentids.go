package objstore

import (
	"context"

	"varve/objstore/internal/refs"
)

// segmentIDs is how many IDs one record in refs sets aside.
const segmentIDs = 64

// newSegmentID returns an ID that no segment ever had. It appends to refs when those set aside are
// used up.
func (c *catalog) newSegmentID(ctx context.Context) (uint32, error) {
	for {
		if id, ok := c.reservedID(); ok {
			return id, nil
		}
		err := c.update(ctx, func() ([]refs.Record, error) {
			if c.nextSegment < c.refs.Segments {
				return nil, nil // another goroutine has done it
			}
			return []refs.Record{{Op: refs.OpSegments, Gen: c.nextSegment + segmentIDs}}, nil
		}, nil)
		if err != nil {
			return 0, err
		}
	}
}

func (c *catalog) reservedID() (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nextSegment >= c.refs.Segments {
		return 0, false
	}
	c.nextSegment++
	return uint32(c.nextSegment - 1), true
}

// usedSegment notes that a file has that ID, whatever refs say.
// REQUIRES: the store is being opened.
func (c *catalog) usedSegment(id uint32) { c.nextSegment = max(c.nextSegment, uint64(id)+1) }
