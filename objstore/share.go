package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/merkle"
)

// Share is what the settled state of a volume, or a snapshot, takes of the store: chunks and tree,
// as they lie on disk.
type Share struct {
	Referenced int64 `json:"referenced"` // bytes that it would take without deduplication
	Unique     int64 `json:"unique"`     // bytes that deleting it alone would free
	Shared     int64 `json:"shared"`     // Referenced less Unique: others have it too, or it has it several times
	// History is what only past states of the volume have, beside its settled state: bytes that
	// dropping all of them would free. Snapshots have none.
	History int64 `json:"history,omitempty"`
	// Estimated is true where the store has too many chunks to count each: the figures come from a
	// sample then.
	Estimated bool `json:"estimated,omitempty"`
}

// sharePatience is how long a list waits for shares that are not known yet.
const sharePatience = 2 * time.Second

// SharedVolumes is Volumes with shares, as far as they are known within two seconds: the first
// look at a large store takes longer. It blocks.
func (s *Store) SharedVolumes(ctx context.Context) ([]VolumeInfo, error) {
	infos := s.Volumes()
	return infos, s.accounting.briefly(ctx, func(ctx context.Context) error { return s.accounting.shareVolumes(ctx, infos) })
}

// SharedVolume is VolumeInfo with its share, under the same condition.
func (s *Store) SharedVolume(ctx context.Context, name string) (VolumeInfo, error) {
	info, err := s.VolumeInfo(name)
	if err != nil {
		return info, err
	}
	infos := []VolumeInfo{info}
	err = s.accounting.briefly(ctx, func(ctx context.Context) error { return s.accounting.shareVolumes(ctx, infos) })
	return infos[0], err
}

// SharedSnapshots is Snapshots with shares, under the same condition. A snapshot that has not
// settled has none.
func (s *Store) SharedSnapshots(ctx context.Context, volume string) ([]SnapshotInfo, error) {
	infos, err := s.Snapshots(volume)
	if err != nil {
		return nil, err
	}
	return infos, s.accounting.briefly(ctx, func(ctx context.Context) error {
		for i := range infos {
			var err error
			if infos[i].Share, err = s.accounting.share(ctx, infos[i].Root); err != nil {
				return err
			}
		}
		return nil
	})
}

// briefly calls f with mu held and the counts up to date, as far as that takes no longer than
// sharePatience. It logs an error of f. An error is one of ctx.
func (a *accounting) briefly(ctx context.Context, f func(ctx context.Context) error) error {
	brief, cancel := context.WithTimeout(ctx, sharePatience)
	defer cancel()
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	err := a.lock(brief)
	if err == nil {
		err = f(brief)
		a.mu.Unlock()
	}
	if err != nil {
		a.note(brief, err)
	}
	return ctx.Err()
}

// shareVolumes fills in the shares of volumes.
// REQUIRES: mu is held, and the counts are up to date.
func (a *accounting) shareVolumes(ctx context.Context, infos []VolumeInfo) error {
	past := a.catalog.past.names()
	for i := range infos {
		share, err := a.share(ctx, infos[i].Root)
		if err != nil {
			return err
		}
		if id, err := uuid.Parse(infos[i].ID); share != nil && err == nil && past[id] != nil {
			history, err := a.ofHistory(ctx, id, past[id])
			if err != nil {
				return err
			}
			share.History, share.Estimated = history.Total(), share.Estimated || !history.exact
		}
		infos[i].Share = share
	}
	return nil
}

// note logs an error that is neither the end of ctx nor that of the store.
func (a *accounting) note(ctx context.Context, err error) {
	if ctx.Err() == nil && a.ctx.Err() == nil {
		a.log.Warn("the shares of images are unknown", "error", err)
	}
}

// share returns the share of a root by its ID; nil if the image has not settled, or the root has no
// name any more.
// REQUIRES: mu is held, and the counts are up to date.
func (a *accounting) share(ctx context.Context, id string) (*Share, error) {
	h, err := merkle.ParseHash(id)
	if err != nil {
		return nil, nil //nolint:nilerr // it has not settled
	}
	root := a.counted[h]
	if root == nil {
		return nil, nil
	}
	unique := freedBytes{exact: true}
	if a.names[h] == 1 {
		if unique, err = a.uniqueOf(ctx, h, root); err != nil {
			return nil, err
		}
	}
	refs := a.graph.Referenced(root).Total()
	return &Share{
		Referenced: refs, Unique: unique.Total(), Shared: max(refs-unique.Total(), 0), Estimated: !a.graph.Exact() || !unique.exact,
	}, nil
}

// uniqueOf returns what removing one root would free.
// REQUIRES: mu is held, and the counts are up to date.
func (a *accounting) uniqueOf(ctx context.Context, h merkle.Hash, root *merkle.Root) (freedBytes, error) {
	if known, ok := a.unique[h]; ok {
		return known, nil
	}
	unique, err := a.tryRemoval(ctx, []*merkle.Root{root})
	if err == nil {
		a.unique[h] = unique
	}
	return unique, err
}

// SnapshotName names a snapshot.
type SnapshotName struct{ Volume, Name string }

func (n SnapshotName) String() string { return n.Volume + "@" + n.Name }

// Freed is what deleting volumes and snapshots would free, in bytes on disk: some at once, and some
// when the store was collected.
type Freed struct {
	Data      int64 `json:"data"`     // chunks
	Metadata  int64 `json:"metadata"` // tree nodes and roots
	Tail      int64 `json:"tail"`     // written to the volumes, and not settled
	Total     int64 `json:"total"`
	Estimated bool  `json:"estimated,omitempty"` // as of Share
}

// WouldFree returns what deleting these volumes, with all their snapshots, and these snapshots
// together would free. It deletes nothing. A snapshot that has not settled settles first; in a store
// that is only looked at, it is an error. WouldFree blocks, for long where the counts are not ready
// yet.
func (s *Store) WouldFree(ctx context.Context, volumes []string, snapshots []SnapshotName) (Freed, error) {
	for _, n := range snapshots {
		if err := s.settleFor(ctx, n); err != nil {
			return Freed{}, err
		}
	}
	for _, name := range volumes {
		v, err := s.catalog.find(name)
		if err != nil {
			return Freed{}, err
		}
		for _, sn := range s.catalog.snapshotsOf(v) {
			if err := s.settleFor(ctx, SnapshotName{name, sn.Name}); err != nil && !errors.Is(err, ErrNotFound) {
				return Freed{}, err
			}
		}
	}
	s.accounting.waiting.Add(1)
	defer s.accounting.waiting.Add(-1)
	for {
		freed, err := s.tryWouldFree(ctx, volumes, snapshots)
		if !errors.Is(err, errNamesChanged) {
			return freed, err
		}
	}
}

// settleFor waits until a snapshot has a root.
func (s *Store) settleFor(ctx context.Context, n SnapshotName) error {
	info, err := s.SnapshotInfo(n.Volume, n.Name)
	if err != nil || info.Root != "" {
		return err
	}
	if s.opts.LookOnly {
		return fmt.Errorf("snapshot %s: %w: it has not settled, which only a running daemon does", n, ErrBusy)
	}
	_, err = s.WaitSnapshot(ctx, n.Volume, n.Name)
	return err
}

// errNamesChanged is for names that changed since the counts were brought up to date.
var errNamesChanged = errors.New("the names have changed")

func (s *Store) tryWouldFree(ctx context.Context, volumes []string, snapshots []SnapshotName) (Freed, error) {
	a := s.accounting
	if err := a.lock(ctx); err != nil {
		return Freed{}, err
	}
	defer a.mu.Unlock()
	lose, tail, err := s.catalog.losing(volumes, snapshots)
	if err != nil {
		return Freed{}, err
	}
	var roots []*merkle.Root
	for h, n := range lose {
		if a.counted[h] == nil {
			return Freed{}, errNamesChanged
		}
		if n >= a.names[h] {
			roots = append(roots, a.counted[h])
		}
	}
	b, err := a.tryRemoval(ctx, roots)
	if err != nil {
		return Freed{}, fmt.Errorf("count what would be free: %w", err)
	}
	return Freed{Data: b.Data, Metadata: b.Tree, Tail: tail, Total: b.Total() + tail, Estimated: !b.exact}, nil
}

// losing returns how many names each root would lose, and the bytes of the volumes' tails.
func (c *catalog) losing(volumes []string, snapshots []SnapshotName) (lose map[merkle.Hash]int, tail int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lose = map[merkle.Hash]int{}
	gone := map[SnapshotName]bool{}
	take := func(n SnapshotName) error {
		_, sn, err := c.snapshot(n.Volume, n.Name)
		if err != nil || gone[n] {
			return err
		}
		gone[n] = true
		if !sn.Settled {
			return errNamesChanged
		}
		lose[sn.Root]++
		return nil
	}
	for _, n := range snapshots {
		if err := take(n); err != nil {
			return nil, 0, err
		}
	}
	whole := map[*volume]bool{}
	for _, name := range volumes {
		v, err := c.volume(name)
		if err != nil {
			return nil, 0, err
		}
		if whole[v] {
			continue
		}
		whole[v] = true
		for _, sn := range v.ref.Order {
			if err := take(SnapshotName{name, sn.Name}); err != nil {
				return nil, 0, err
			}
		}
		for _, p := range c.past.of(v.ref.ID) {
			if err := take(SnapshotName{name, p.snap.Name}); err != nil {
				return nil, 0, err
			}
		}
		lose[c.refs.RootOf(v.ref)]++
		v.mu.Lock()
		tail += v.tail
		v.mu.Unlock()
	}
	return lose, tail, nil
}
