package segment

import (
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"varve/objstore/internal/lockorder"
)

// FooterCache keeps the footers of sealed segments in memory, those that were asked for last. It is safe for concurrent use,
// and holds no lock over I/O.
type FooterCache struct {
	mu    lockorder.Mutex[lockorder.Memory]
	lru   *simplelru.LRU[uint32, Entries]
	bytes int64
	limit int64 // of bytes
}

// NewFooterCache returns an empty cache of at most limit bytes, or of one footer if that is longer.
func NewFooterCache(limit int64) *FooterCache {
	c := &FooterCache{limit: limit}
	c.lru, _ = simplelru.NewLRU(1<<20, func(_ uint32, b Entries) { c.bytes -= int64(len(b)) }) // fails for size 0 only
	return c
}

// Get returns the objects of a sealed segment, from memory or by ReadFooter.
func (c *FooterCache) Get(g *File) (Entries, error) {
	c.mu.Lock()
	b, ok := c.lru.Get(g.ID)
	c.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := g.ReadFooter()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lru.Contains(g.ID) {
		return b, nil
	}
	c.lru.Add(g.ID, b)
	c.bytes += int64(len(b))
	for c.bytes > c.limit && c.lru.Len() > 1 {
		c.lru.RemoveOldest()
	}
	return b, nil
}
