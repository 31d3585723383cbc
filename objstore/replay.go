package objstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/extent"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// replayer reads the journals of volumes, decides which records count (history.go, copied.go), and
// makes layers of them. An opening replays all volumes, a repair or a second look only one.
//
// Invariants:
//
//   - All of a volume's journals are read and validated before any is replayed: layers of all
//     generations that count come into being, or none.
//   - What this opening counts is durable before its journal is finished: it counts after the next
//     power cut too.
//   - A journal that is damaged, or behind damage, is not changed. The volume is refused, and other
//     volumes are not affected.
//   - Journals that hold nothing are removed newest first: a crash in between must not leave a
//     generation without its predecessors.
//
// It has no lock. The caller has the volume for itself: the store is being opened, or v.settleMu is
// held.
type replayer struct {
	fs          vfs.FS
	store       uuid.UUID
	chunkSize   int
	origin      journal.Origin
	trustCache  func(mark string) bool                   // Options.TrustCache; nil: no
	contested   func(id uuid.UUID, names ...string) bool // Options.Contested; nil: no
	segments    *segment.Table
	snapshotsOf func(*volume) []*refs.Snapshot
	space       *spaceAccount
	book        *damageBook
	log         *slog.Logger
}

// replayJournals turns the journals of all volumes into frozen layers.
func (p *replayer) replayJournals(ctx context.Context, volumes map[uuid.UUID]*volume) error {
	names, err := p.fs.List(journal.Dir)
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
			p.book.stray(journal.Dir + "/" + n)
			continue
		}
		if draft {
			if err := disk.RemoveLeftover(p.fs, p.log, journal.Dir+"/"+n); err != nil {
				return err
			}
			continue
		}
		v := volumes[id]
		if v == nil || gen <= v.baseGen {
			// The volume was deleted, or has settled past this generation.
			if err := disk.RemoveLeftover(p.fs, p.log, journal.Dir+"/"+n); err != nil {
				return err
			}
			continue
		}
		gens[id] = append(gens[id], gen)
	}
	err = disk.ParallelContext(ctx, slices.Collect(maps.Values(volumes)), func(v *volume) error {
		gens := gens[v.ref.ID]
		slices.Sort(gens)
		if err := p.replayVolume(ctx, v, gens); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name(), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.fs.SyncDir(journal.Dir)
}

// replayVolume replays the journals of a volume. If one is damaged, all of them stay as they are.
func (p *replayer) replayVolume(ctx context.Context, v *volume, gens []uint64) error {
	h, err := p.readHistory(ctx, v, gens)
	if err != nil {
		return err
	}
	if d := v.damage.Load(); d != nil { // its root is lost: nothing can be put on top of it
		d.journals, d.gens = h.files, gens
		d.loseSnapshots(p.snapshotsOf(v))
		return nil
	}
	if h.damage != nil {
		h.damage.gens = gens
		p.book.refuse(v, h.damage)
		return nil
	}
	for _, name := range slices.Backward(h.drop) {
		if err := p.fs.Remove(name); err != nil {
			return err
		}
	}
	failpoint.Here(failpoint.RecoverDropped)
	return p.replayLayers(ctx, v, h.replays)
}

// replayLayers makes frozen layers of the generations of a volume: of all of them or, after an
// error, of none. One that ctx has ended can be tried again: what it has made durable counts either
// way.
func (p *replayer) replayLayers(ctx context.Context, v *volume, replays []*journal.Replay) error {
	var layers []*layer
	for i, rp := range replays {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := p.replayLayer(v, rp)
		if errors.Is(err, errNotSynced) { // the next sync would not report the error again
			for _, rp := range replays[i:] {
				rp.Distrust(p.fs)
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
			p.stampSegment(p.segments.Get(h.seg), 0)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range layers { // all or none, so the caller may try again
		for _, h := range l.handed {
			p.segments.Get(h.seg).Unsettled.Add(h.to - h.from)
		}
		p.space.commit(l.bytes, l.reservation.bytes)
		v.layers = append(v.layers, l)
		v.tail += l.bytes
	}
	v.keepPromise()
	return nil
}

// takeHistory makes layers of the journals of a volume that was refused, and removes journals that
// hold nothing. Once begun, it does not stop when ctx ends.
func (p *replayer) takeHistory(ctx context.Context, v *volume, h *history) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	for _, name := range slices.Backward(h.drop) {
		if err := removeJournal(p.fs, name); err != nil {
			return err
		}
	}
	if err := p.replayLayers(ctx, v, h.replays); err != nil || len(h.drop) == 0 {
		return err
	}
	// Before the volume takes writes: a removed journal that a power cut brings back would be
	// assessed again, without the decision that was made about it.
	return p.fs.SyncDir(journal.Dir)
}

// validateRecord returns what is wrong with a record that was read whole.
func (p *replayer) validateRecord(v *volume, r *journal.Record) error {
	sectors := uint64(v.Size()) / SectorSize
	if r.Count == 0 || r.Count > sectors || r.Sector > sectors-r.Count {
		return fmt.Errorf("%d sectors at %d in a volume of %d", r.Count, r.Sector, sectors)
	}
	if r.Type != journal.Data {
		return nil
	}
	g := p.segments.Get(r.Segment)
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
func (p *replayer) replayLayer(v *volume, rp *journal.Replay) (*layer, error) {
	l := newLayer(rp.ID.Gen, nil)
	used := map[*segment.File]bool{}
	for i := range rp.Records {
		r := &rp.Records[i]
		e := extent.Extent{End: r.Sector + r.Count, Sectors: r.Count}
		if r.Type == journal.Data {
			g := p.segments.Get(r.Segment)
			from := int64(r.Block) * disk.BlockSize
			to := from + disk.RoundUp(int64(r.Count)*SectorSize, disk.BlockSize)
			e.Segment, e.File = g.ID, uint64(from)/SectorSize
			used[g] = true
			l.hand(g.ID, from, to)
			l.bytes += int64(r.Count) * SectorSize
			l.growth += touched(int64(r.Sector)*SectorSize, int64(r.Count)*SectorSize, int64(p.chunkSize))
		}
		l.insert(e)
		l.reservation.add(int64(e.Start())*SectorSize, int64(e.End)*SectorSize, int64(p.chunkSize), e.Segment == 0)
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
	if l.journal, err = rp.Finish(p.fs); err != nil {
		return nil, err
	}
	failpoint.Here(failpoint.RecoverFinished)
	p.log.Info("replayed a journal", "volume", v.Name(), "generation", rp.ID.Gen, "records", len(rp.Records), "unflushed", rp.Unflushed())
	return l, nil
}
