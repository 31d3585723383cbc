package segment

import (
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"varve/objstore/internal/lockorder"
)

// FooterCache keeps the most recently used footers of sealed segments in memory. It is safe for
// concurrent use, and holds no lock over I/O.
type FooterCache struct {
	mu    lockorder.Mutex[lockorder.Memory]
	lru   *simplelru.LRU[uint32, footerVersion]
	bytes int64
	limit int64 // of bytes
}

// footerVersion is a footer, and the version of the object list that it was read as.
type footerVersion struct {
	entries Entries
	version uint64
}

// NewFooterCache returns an empty cache of at most limit bytes, or of one footer if that is longer.
func NewFooterCache(limit int64) *FooterCache {
	c := &FooterCache{limit: limit}
	c.lru, _ = simplelru.NewLRU(1<<20, func(_ uint32, f footerVersion) { c.bytes -= int64(len(f.entries)) }) // fails for size 0 only
	return c
}

// Get returns the objects of a sealed segment, from memory or by ReadFooter, as its list names them
// at some moment during the call. The errors are those of ReadFooter.
func (c *FooterCache) Get(g *File) (Entries, error) {
	footer, version := g.list()
	if footer == 0 {
		return nil, ErrListChanged
	}
	c.mu.Lock()
	f, ok := c.lru.Get(g.ID)
	c.mu.Unlock()
	if ok && f.version == version {
		return f.entries, nil
	}
	b, err := g.ReadFooter()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.lru.Peek(g.ID); ok && f.version >= version {
		return b, nil
	}
	c.lru.Remove(g.ID) // of an older list
	c.lru.Add(g.ID, footerVersion{b, version})
	c.bytes += int64(len(b))
	for c.bytes > c.limit && c.lru.Len() > 1 {
		c.lru.RemoveOldest()
	}
	return b, nil
}
