package objstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// recover brings the store to life: segments, roots, journals, in this order. Refs are read. What the index lacks is left to
// the indexer.
func (s *Store) recover(ctx context.Context) error {
	failpoint.Here(failpoint.RecoverRefs)
	if err := s.openSegments(); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverSegments)
	if !s.opts.LookOnly {
		if err := s.indexer.open(ctx, s.opts.enteredFirst); err != nil {
			return err
		}
	}
	for _, ref := range s.catalog.refs.ByID { // before anything is looked for by its content
		s.objects.Deepen(merkle.Depth(ref.Size, s.sb.ChunkSize))
	}
	roots, err := s.findRoots()
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverIndexed)
	for _, ref := range s.catalog.refs.Sorted() {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := s.openVolume(ref, roots)
		if err != nil {
			return fmt.Errorf("volume %s: %w", ref.Name, err)
		}
		s.catalog.volumes[ref.ID] = v
	}
	if err := s.replayJournals(); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverJournals)
	return s.sweepSegments()
}

// openSegments opens every segment file.
func (s *Store) openSegments() error {
	names, err := s.fs.List(segment.Dir)
	if err != nil {
		return err
	}
	dirs := map[uint32]bool{}
	var files []*segmentFile
	for _, n := range names {
		switch id, dir, ok := segment.ParseName(n); {
		case !ok:
			s.stray(segment.Dir + "/" + n)
		case dir:
			dirs[id] = true
		default:
			files = append(files, &segmentFile{id: id})
		}
	}
	_ = disk.Parallel(files, func(f *segmentFile) error { // each has its own error
		f.seg, f.err = segment.Open(s.fs, f.id, s.sb.ID, dirs[f.id])
		if disk.Unreadable(f.err) { // it may be better the second time
			f.seg, f.err = segment.Open(s.fs, f.id, s.sb.ID, dirs[f.id])
		}
		return nil
	})
	if err := s.takeSegments(files, dirs); err != nil {
		return err
	}
	// The process that made a directory may have been killed before it could sync its name.
	return s.fs.SyncDir(segment.Dir)
}

// segmentFile is a file of segmentDir that was opened, or why it was not.
type segmentFile struct {
	id  uint32
	seg *segment.File
	err error
}

// takeSegments takes over what was opened. dirs are the segments that have an object log.
func (s *Store) takeSegments(files []*segmentFile, dirs map[uint32]bool) error {
	closed := map[uint32]bool{} // those that their disk doesn't let us open
	var first error
	for _, f := range files {
		id, g, err := f.id, f.seg, f.err
		if disk.Unreadable(err) {
			s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: err})
			closed[id] = true
			delete(dirs, id)
			continue
		}
		if errors.Is(err, segment.ErrUnfinished) {
			// A power cut before the segment's header was durable: nothing refers to it.
			s.log.Info("an unfinished segment is removed", "segment", id)
			err = s.fs.Remove(segment.Name(id))
			if first == nil {
				first = err
			}
			continue
		}
		if err != nil {
			if first == nil {
				first = err
			}
			continue // the others are closed with the store
		}
		s.validateObjectLog(g)
		if d := g.Repaired(); d != nil {
			s.mended(d)
		}
		if err := g.Damage(); err != nil {
			s.lost(err)
		}
		delete(dirs, id)
		s.segments.Add(g)
		chunks, others := g.Stored()
		s.chunkBytes.Add(chunks)
		s.nodeBytes.Add(others)
		s.catalog.usedSegment(id)
	}
	if first != nil {
		return first
	}
	for id := range s.catalog.refs.ObjectLogs {
		if s.segments.Get(id) == nil && !dirs[id] && !closed[id] {
			s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("it is not there, and refs know of objects in it")})
		}
	}
	for id := range dirs {
		s.lost(&CorruptError{File: segment.Name(id), Object: "segment", Err: errors.New("its object log is there, the segment is not")})
	}
	return nil
}

// validateObjectLog holds an object log against what refs know of it.
func (s *Store) validateObjectLog(g *segment.File) {
	want := s.catalog.refs.ObjectLogs[g.ID]
	if want == 0 || g.Damaged() {
		return
	}
	if g.Sealed() {
		delete(s.catalog.refs.ObjectLogs, g.ID)
		return
	}
	bad := &CorruptError{File: segment.ObjectLogName(g.ID), Object: "log"}
	switch n := g.ObjectLogSize(); {
	case n == 0:
		bad.Err = errors.New("it is not there, and refs know of objects in it")
	case n < want:
		bad.Offset, bad.Err = n, fmt.Errorf("it ends there, and had %d bytes", want)
	default:
		return
	}
	g.SetDamage(bad)
}

// findRoots looks for the roots of all volumes at once: where the index lacks them, that costs one pass through the records.
// It begins with the newest ones.
func (s *Store) findRoots() (map[merkle.Hash]object.Located, error) {
	if all := s.segments.All(); len(all) > 0 {
		s.objects.SearchFrom(all[len(all)-1].ID)
	}
	var roots []merkle.Hash
	for _, ref := range s.catalog.refs.ByID {
		roots = append(roots, ref.Root)
	}
	found, _, err := s.objects.LocateAll(roots, merkle.KindRoot)
	return found, err
}

// openVolume makes the engine object of a volume. One whose root can't be read is there, and refused to whoever
// wants to open it.
func (s *Store) openVolume(ref *refs.Volume, roots map[merkle.Hash]object.Located) (*volume, error) {
	root := s.emptyRoot(ref.Size)
	var damage error
	if !ref.Root.IsZero() {
		r, err := s.objects.RootAt(ref.Root, ref.Size, roots[ref.Root])
		switch {
		case err == nil:
			root = *r
		case disk.Damaged(err):
			damage = err
		default:
			return nil, err
		}
	}
	v := newVolume(s, ref, newBase(s, root))
	v.baseGen, v.baseData = ref.Gen, ref.Logical
	if damage != nil {
		v.base.id = ref.Root
		s.refuse(v, &volumeDamage{err: damage, root: true})
	}
	return v, nil
}

// replayJournals turns the journals into frozen layers.
func (s *Store) replayJournals() error {
	names, err := s.fs.List(journal.Dir)
	if err != nil {
		return err
	}
	gens := map[uuid.UUID][]uint64{}
	for _, n := range names {
		id, gen, draft, ok := journal.ParseName(n)
		if !ok {
			s.stray(journal.Dir + "/" + n)
			continue
		}
		if draft {
			if err := disk.RemoveLeftover(s.fs, s.log, journal.Dir+"/"+n); err != nil {
				return err
			}
			continue
		}
		v := s.catalog.volumes[id]
		if v == nil || gen <= v.baseGen {
			// Its volume is gone, or has settled past it.
			if err := disk.RemoveLeftover(s.fs, s.log, journal.Dir+"/"+n); err != nil {
				return err
			}
			continue
		}
		gens[id] = append(gens[id], gen)
	}
	err = disk.Parallel(slices.Collect(maps.Values(s.catalog.volumes)), func(v *volume) error {
		gens := gens[v.ref.ID]
		slices.Sort(gens)
		if err := s.replayVolume(v, gens); err != nil {
			return fmt.Errorf("volume %s: %w", v.ref.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.fs.SyncDir(journal.Dir)
}

// replayVolume replays the journals of a volume, or, where they are damaged, leaves all of them as they are.
func (s *Store) replayVolume(v *volume, gens []uint64) error {
	h, err := s.readHistory(v, gens)
	if err != nil {
		return err
	}
	if d := v.damage.Load(); d != nil { // its root is lost: nothing can be put on top of it
		d.journals, d.gens = h.files, gens
		d.loseSnapshots(v)
		return nil
	}
	if h.damage != nil {
		h.damage.gens = gens
		s.refuse(v, h.damage)
		return nil
	}
	// The newest first: a crash on the way must not leave a generation without those before it.
	for _, name := range slices.Backward(h.drop) {
		if err := s.fs.Remove(name); err != nil {
			return err
		}
	}
	failpoint.Here(failpoint.RecoverDropped)
	return s.replayLayers(v, h.replays)
}

func (s *Store) replayLayers(v *volume, replays []*journal.Replay) error {
	var layers []*layer
	for i, rp := range replays {
		l, err := s.replayLayer(v, rp)
		if errors.Is(err, errNotSynced) { // of a sync that fails, the next one knows nothing
			for _, rp := range replays[i:] {
				rp.Distrust(s.fs)
			}
		}
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	// Not before all of the volume's journals have been finished: of one that was copied, and was not, the segments say
	// that it counts, to the next opening too.
	for _, l := range layers {
		for _, h := range l.handed {
			s.stampSegment(s.segments.Get(h.seg), 0)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range layers { // all or none: what fails here may be tried again
		for _, h := range l.handed {
			s.segments.Get(h.seg).Unsettled.Add(h.to - h.from)
		}
		s.space.commit(l.bytes, l.reservation.bytes)
		v.layers = append(v.layers, l)
		v.tail += l.bytes
	}
	return nil
}

// validateRecord says what is wrong with a record that was read whole.
func (s *Store) validateRecord(v *volume, r *journal.Record) error {
	sectors := uint64(v.ref.Size) / SectorSize
	if r.Count == 0 || r.Count > sectors || r.Sector > sectors-r.Count {
		return fmt.Errorf("%d sectors at %d in a volume of %d", r.Count, r.Sector, sectors)
	}
	if r.Type != journal.Data {
		return nil
	}
	g := s.segments.Get(r.Segment)
	if g == nil {
		return fmt.Errorf("segment %08x is not there", r.Segment)
	}
	from := int64(r.Block) * disk.BlockSize
	to := from + disk.RoundUp(int64(r.Count)*SectorSize, disk.BlockSize)
	if r.Block == 0 || to > g.Capacity {
		return fmt.Errorf("bytes %d to %d of a segment of %d", from, to, g.Capacity)
	}
	return nil
}

var errNotSynced = errors.New("what its journal speaks of can't be made durable")

// replayLayer makes a frozen layer of one journal, whose records were checked.
func (s *Store) replayLayer(v *volume, rp *journal.Replay) (*layer, error) {
	l := newLayer(rp.ID.Gen, nil)
	used := map[*segment.File]bool{}
	for i := range rp.Records {
		r := &rp.Records[i]
		e := extent.Extent{End: r.Sector + r.Count, Sectors: r.Count}
		if r.Type == journal.Data {
			g := s.segments.Get(r.Segment)
			from := int64(r.Block) * disk.BlockSize
			to := from + disk.RoundUp(int64(r.Count)*SectorSize, disk.BlockSize)
			e.Segment, e.File = g.ID, uint64(from)/SectorSize
			used[g] = true
			l.hand(g.ID, from, to)
			l.bytes += int64(r.Count) * SectorSize
		}
		l.insert(e)
		l.reservation.add(int64(e.Start())*SectorSize, int64(e.End)*SectorSize, int64(s.sb.ChunkSize), e.Segment == 0)
	}
	l.reservation.freeze()
	// What this opening takes for good must stay so after the next power cut.
	if rp.Trusted {
		for g := range used {
			if err := g.Data.Datasync(); err != nil {
				return nil, fmt.Errorf("%w: %w", errNotSynced, err)
			}
		}
	}
	failpoint.Here(failpoint.RecoverReplayed)
	var err error
	if l.journal, err = rp.Finish(s.fs); err != nil {
		return nil, err
	}
	failpoint.Here(failpoint.RecoverFinished)
	s.log.Info("replayed a journal", "volume", v.ref.Name, "generation", rp.ID.Gen, "records", len(rp.Records), "unflushed", rp.Unflushed())
	return l, nil
}

// sweepSegments ends the segments that a former process left open: nothing is appended to them any more.
func (s *Store) sweepSegments() error {
	for _, g := range s.segments.All() {
		if g.Outlived() {
			if err := s.dropOutlived(g); err != nil {
				return err
			}
		}
	}
	left := slices.DeleteFunc(s.segments.All(), func(g *segment.File) bool {
		return g.Sealed() || g.Unsettled.Load() > 0 || s.holds(g)
	})
	if err := disk.Parallel(left, s.sweepSegment); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverSwept)
	return nil
}

// dropOutlived removes the object log of a segment whose footer names all that is in it.
func (s *Store) dropOutlived(g *segment.File) error {
	// A process that was killed may have written the footer, and not synced it.
	if err := g.Data.Datasync(); err != nil {
		s.log.Warn("an object log that is not needed stays behind", "file", segment.ObjectLogName(g.ID), "error", err)
		return nil
	}
	if err := disk.RemoveLeftover(s.fs, s.log, segment.ObjectLogName(g.ID)); err != nil {
		return err
	}
	return s.fs.SyncDir(segment.Dir)
}

// sweepSegment seals a segment, or removes it if it holds nothing.
func (s *Store) sweepSegment(g *segment.File) error {
	if len(g.OpenObjects()) > 0 {
		return s.sealSegment(g)
	}
	// Before the segment goes: an object log without a segment is damage.
	if err := g.RemoveObjectLog(s.fs); err != nil {
		return err
	}
	failpoint.Here(failpoint.RecoverEmptied)
	return s.retire(g)
}
