package objstore

import (
	"errors"
	"os"
	"time"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/lockorder"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// usage knows what the store's files occupy on disk, without asking for each of them: a sealed
// segment does not change, so that only those are asked that are being written, and the index, of
// many files, now and then. Its methods block.
type usage struct {
	fs         vfs.FS
	segments   *segment.Table
	indexBytes func() int64

	mu      lockorder.Mutex[lockorder.Memory] // never held over I/O
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

// total returns what the store's files occupy, in bytes.
func (u *usage) total() (int64, error) {
	p, err := u.parts()
	return p.segments + p.other(), err
}

// parts are what files of each kind occupy on disk, in bytes.
type parts struct {
	segments                    int64 // and their object logs
	journals, refs, index, rest int64 // rest: superblocks, and the daemon's files
}

func (p parts) other() int64 { return p.journals + p.refs + p.index + p.rest }

// parts returns what the store's files occupy, by kind.
func (u *usage) parts() (p parts, err error) {
	for _, g := range u.segments.All() {
		n, err := u.ofSegment(g)
		if err != nil {
			return parts{}, err
		}
		p.segments += n
	}
	for _, d := range []struct {
		name string
		sum  *int64
	}{{journal.Dir, &p.journals}, {refs.Dir, &p.refs}, {".", &p.rest}} {
		if *d.sum, err = u.below(d.name); err != nil {
			return parts{}, err
		}
	}
	p.index = u.ofIndex()
	return p, nil
}

// ofIndex returns what the index's files occupy, as it was a second ago at most.
func (u *usage) ofIndex() int64 {
	u.mu.Lock()
	n, fresh := u.index, time.Since(u.indexAt) <= indexUsage
	u.mu.Unlock()
	if fresh {
		return n
	}
	n = u.indexBytes()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.index, u.indexAt = n, time.Now()
	return n
}

// ofSegment returns what a segment occupies, and its object log.
func (u *usage) ofSegment(g *segment.File) (int64, error) {
	if n := g.Used.Load(); n > 0 {
		return n, nil
	}
	sealed, dir, version := g.Sealed(), g.HasObjectLog(), g.Version()
	n, err := u.file(segment.Name(g.ID))
	if err != nil {
		return 0, err
	}
	if sealed && g.Version() == version { // else holes are being punched
		g.Used.Store(n)
	}
	if !dir {
		return n, nil
	}
	d, err := u.file(segment.ObjectLogName(g.ID))
	return n + d, err
}

// below adds up what the files of a directory occupy.
func (u *usage) below(dir string) (int64, error) {
	names, err := u.fs.List(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, n := range names {
		used, err := u.file(dir + "/" + n)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// file returns what a file occupies that may go meanwhile.
func (u *usage) file(name string) (int64, error) {
	n, err := u.fs.Used(name)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	return n, err
}
