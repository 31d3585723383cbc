package objstore

import (
	"context"
	"fmt"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
)

// recover opens what the store holds: segments, roots, journals, in this order. Refs have been read
// before. What the index lacks is left to the indexer.
func (s *Store) recover(ctx context.Context) error {
	failpoint.Here(failpoint.RecoverRefs)
	opener := &segmentOpener{
		fs: s.fs, store: s.sb.ID, names: s.catalog, segments: &s.segments, stored: &s.stored, sealer: s.sealer, book: &s.damageBook, log: s.log,
	}
	if err := opener.open(ctx); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverSegments)
	s.openUpkeep()
	s.setCollectRate(s.Maintenance().CollectRate)
	if !s.opts.LookOnly {
		if err := s.indexer.open(ctx, s.opts.enteredFirst); err != nil {
			return err
		}
	}
	for _, ref := range s.catalog.refs.ByID { // before anything is looked for by its content
		s.objects.Deepen(merkle.Depth(ref.Size, s.sb.ChunkSize))
		for _, sn := range ref.Order {
			s.objects.Deepen(merkle.Depth(sn.Size, s.sb.ChunkSize))
		}
		for _, p := range s.catalog.past.of(ref.ID) {
			s.objects.Deepen(merkle.Depth(p.snap.Size, s.sb.ChunkSize))
		}
	}
	roots, err := s.findRoots(ctx)
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverIndexed)
	for _, ref := range s.catalog.refs.Sorted() {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := s.openVolume(ctx, ref, roots)
		if err != nil {
			return fmt.Errorf("volume %s: %w", ref.Name, err)
		}
		s.catalog.volumes[ref.ID] = v
	}
	if err := s.replayer.replayJournals(ctx, s.catalog.volumes); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverJournals)
	return opener.sweep(ctx)
}

// findRoots looks up the roots of all volumes at once: if the index lacks them, that costs one pass
// through the records of the segments, newest segment first.
func (s *Store) findRoots(ctx context.Context) (map[merkle.Hash]object.Located, error) {
	if all := s.segments.All(); len(all) > 0 {
		s.objects.SearchFrom(all[len(all)-1].ID)
	}
	var roots []merkle.Hash
	for _, ref := range s.catalog.refs.ByID {
		roots = append(roots, ref.Root)
	}
	found, _, err := s.objects.LocateAll(ctx, roots, merkle.KindRoot)
	return found, err
}

// openVolume makes the engine object of a volume. A volume whose root can't be read exists, and
// can't be opened.
func (s *Store) openVolume(ctx context.Context, ref *refs.Volume, roots map[merkle.Hash]object.Located) (*volume, error) {
	root := s.sb.emptyRoot(ref.Size)
	var damage error
	if !ref.Root.IsZero() {
		r, err := s.objects.RootAt(ctx, ref.Root, ref.Size, roots[ref.Root])
		switch {
		case err == nil:
			root = *r
		case disk.Damaged(err):
			damage = err
		default:
			return nil, err
		}
	}
	v := newVolume(s, ref, newBase(s.leaves, root))
	v.baseGen, v.baseData = ref.Gen, ref.Logical
	v.setLimits(Limits{ref.Quota, ref.Reserve})
	if damage != nil {
		v.base.id = ref.Root
		s.refuse(v, &volumeDamage{err: damage, root: true})
	}
	return v, nil
}
