package objstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"varve/objstore/internal/segment"
)

// usage is what the store's files occupy on disk, known without asking for each of them: a sealed segment does not
// change, so that only those are asked that are being written, and the index, of many files, now and then.
type usage struct {
	mu      sync.Mutex
	index   int64
	indexAt time.Time
}

// indexUsage is how long what is known of the index's size is good enough.
const indexUsage = time.Second

// forget has everything asked again.
func (u *usage) forget() {
	u.mu.Lock()
	u.indexAt = time.Time{}
	u.mu.Unlock()
}

// used says what the store's files occupy, in bytes.
func (s *Store) used() (int64, error) {
	segs, other, err := s.usedParts()
	return segs + other, err
}

// usedParts tells the segments and their directories from journals, refs, index, and the daemon's files.
func (s *Store) usedParts() (segs, other int64, err error) {
	for _, g := range s.segments.All() {
		n, err := s.segmentUsed(g)
		if err != nil {
			return 0, 0, err
		}
		segs += n
	}
	for _, d := range []string{journalDir, filepath.Dir(refsFile), "."} {
		n, err := s.usedBelow(d)
		if err != nil {
			return 0, 0, err
		}
		other += n
	}
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	if time.Since(s.usage.indexAt) > indexUsage {
		s.usage.index, s.usage.indexAt = s.index.Bytes(), time.Now()
	}
	return segs, other + s.usage.index, nil
}

// segmentUsed says what a segment occupies, and its directory.
func (s *Store) segmentUsed(g *segment.File) (int64, error) {
	if n := g.Used.Load(); n > 0 {
		return n, nil
	}
	sealed, log := g.Sealed(), g.HasObjectLog()
	n, err := s.fileUsed(segment.Name(g.ID))
	if err != nil {
		return 0, err
	}
	if sealed {
		g.Used.Store(n)
	}
	if !log {
		return n, nil
	}
	d, err := s.fileUsed(segment.ObjectLogName(g.ID))
	return n + d, err
}

// usedBelow adds up what the files of a directory occupy.
func (s *Store) usedBelow(dir string) (int64, error) {
	names, err := s.fs.List(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, n := range names {
		used, err := s.fileUsed(dir + "/" + n)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// fileUsed says what a file occupies that may go meanwhile.
func (s *Store) fileUsed(name string) (int64, error) {
	n, err := s.fs.Used(name)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	return n, err
}
