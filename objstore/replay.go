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
	"varve/objstore/internal/segment"
)

// replayJournals turns the journals into frozen layers.
func (s *Store) replayJournals(ctx context.Context) error {
	names, err := s.fs.List(journal.Dir)
	if err != nil {
		return err
	}
	gens := map[uuid.UUID][]uint64{}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
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
			// The volume was deleted, or has settled past this generation.
			if err := disk.RemoveLeftover(s.fs, s.log, journal.Dir+"/"+n); err != nil {
				return err
			}
			continue
		}
		gens[id] = append(gens[id], gen)
	}
	err = disk.ParallelContext(ctx, slices.Collect(maps.Values(s.catalog.volumes)), func(v *volume) error {
		gens := gens[v.ref.ID]
		slices.Sort(gens)
		if err := s.replayVolume(ctx, v, gens); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name(), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.fs.SyncDir(journal.Dir)
}

// replayVolume replays the journals of a volume. If one is damaged, all of them stay as they are.
func (s *Store) replayVolume(ctx context.Context, v *volume, gens []uint64) error {
	h, err := s.readHistory(ctx, v, gens)
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
	// Newest first: a crash in between must not leave a generation without its predecessors.
	for _, name := range slices.Backward(h.drop) {
		if err := s.fs.Remove(name); err != nil {
			return err
		}
	}
	failpoint.Here(failpoint.RecoverDropped)
	return s.replayLayers(ctx, v, h.replays)
}

// replayLayers makes frozen layers of the generations of a volume: of all of them or, after an error,
// of none. One that ctx has ended can be tried again: what it has made durable counts either way.
func (s *Store) replayLayers(ctx context.Context, v *volume, replays []*journal.Replay) error {
	var layers []*layer
	for i, rp := range replays {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := s.replayLayer(v, rp)
		if errors.Is(err, errNotSynced) { // the next sync would not report the error again
			for _, rp := range replays[i:] {
				rp.Distrust(s.fs)
			}
		}
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	// Not before all of the volume's journals are finished: the number in the segments is what
	// makes a copied journal count, and the next opening needs it for a journal that is not
	// finished.
	for _, l := range layers {
		for _, h := range l.handed {
			s.stampSegment(s.segments.Get(h.seg), 0)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range layers { // all or none, so that the caller may try again
		for _, h := range l.handed {
			s.segments.Get(h.seg).Unsettled.Add(h.to - h.from)
		}
		s.space.commit(l.bytes, l.reservation.bytes)
		v.layers = append(v.layers, l)
		v.tail += l.bytes
	}
	v.keepPromise()
	return nil
}

// validateRecord returns what is wrong with a record that was read whole.
func (s *Store) validateRecord(v *volume, r *journal.Record) error {
	sectors := uint64(v.Size()) / SectorSize
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

var errNotSynced = errors.New("the data that its journal refers to can't be made durable")

// replayLayer makes a frozen layer of one journal, whose records were validated.
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
			l.growth += touched(int64(r.Sector)*SectorSize, int64(r.Count)*SectorSize, int64(s.sb.ChunkSize))
		}
		l.insert(e)
		l.reservation.add(int64(e.Start())*SectorSize, int64(e.End)*SectorSize, int64(s.sb.ChunkSize), e.Segment == 0)
	}
	l.reservation.freeze()
	// What this opening counts must be there after the next power cut too.
	if rp.Trusted {
		for g := range used {
			if err := g.Sync(); err != nil {
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
	s.log.Info("replayed a journal", "volume", v.Name(), "generation", rp.ID.Gen, "records", len(rp.Records), "unflushed", rp.Unflushed())
	return l, nil
}
