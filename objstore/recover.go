package objstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/google/uuid"

	"varve/objstore/index"
)

// recover brings the store to life: segments, index, journals, in this order. Refs are read.
func (s *Store) recover(ctx context.Context) error {
	if err := s.openSegments(); err != nil {
		return err
	}
	if err := s.fillIndex(ctx); err != nil {
		return err
	}
	for _, ref := range s.refs.sorted() {
		v, err := s.openVolume(ref)
		if err != nil {
			return fmt.Errorf("volume %s: %w", ref.name, err)
		}
		s.volumes[ref.id] = v
	}
	if err := s.replayJournals(); err != nil {
		return err
	}
	return s.sweepSegments()
}

// openRefs reads the refs log, and rewrites it when it has grown long for what it says.
func (s *Store) openRefs() error {
	if err := s.fs.Remove(refsFile + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := openLog(s.fs, refsFile, logKindRefs, s.sb.id, 0, false, s.refs.applyFrame)
	if errors.Is(err, os.ErrNotExist) {
		return &CorruptError{File: refsFile, Object: "refs log", Err: err}
	}
	if err != nil {
		return err
	}
	s.refsLog = l
	s.nextSegment = s.refs.segments
	l.ahead = refsAhead
	l.reserve()
	if err := s.fs.SyncDir(filepath.Dir(refsFile)); err != nil { // it may have been renamed just before a kill
		return err
	}
	b, err := json.Marshal(s.refs.records())
	if err != nil || l.end < 1<<20+4*int64(len(b)) || len(b) > maxFrame {
		return err
	}
	n, err := createLog(s.fs, refsFile+".new", logKindRefs, s.sb.id, 0)
	if err != nil {
		s.log.Warn("the refs log stays long", "error", err)
		return nil
	}
	if err := n.append(b); err != nil {
		s.log.Warn("the refs log stays long", "error", err)
		return n.close()
	}
	if err := l.close(); err != nil {
		return err
	}
	n.name, n.ahead = refsFile, refsAhead
	n.reserve()
	s.refsLog = n
	if err := s.fs.Rename(refsFile+".new", refsFile); err != nil {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(refsFile))
}

// openSegments opens every segment file.
func (s *Store) openSegments() error {
	names, err := s.fs.List(segmentDir)
	if err != nil {
		return err
	}
	dirs := map[uint32]bool{}
	var ids []uint32
	for _, n := range names {
		var id uint32
		if _, err := fmt.Sscanf(n, "%08x.", &id); err != nil || id == 0 || len(n) != 12 {
			s.log.Warn("a file that is none of the store's", "file", segmentDir+"/"+n)
			continue
		}
		if strings.HasSuffix(n, ".dir") {
			dirs[id] = true
		} else {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		g, err := openSegment(s.fs, id, s.sb.id, dirs[id])
		if err != nil && !dirs[id] && s.neverMade(id) {
			// A power cut before the segment's header was durable: nothing refers to it.
			s.log.Info("an unfinished segment is removed", "segment", id)
			err = s.fs.Remove(segmentName(id))
			if err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if g.damaged != nil {
			s.log.Error("a segment's footer is damaged; its objects are checked by their content", "error", g.damaged)
		}
		delete(dirs, id)
		s.segments.add(g)
		s.chunkBytes.Add(g.chunks)
		s.nodeBytes.Add(g.nodes)
		s.nextSegment = max(s.nextSegment, uint64(id)+1)
	}
	// The process that made a directory may have been killed before it could sync its name.
	if err := s.fs.SyncDir(segmentDir); err != nil {
		return err
	}
	for id := range dirs {
		return &CorruptError{File: segmentName(id), Object: "segment", Err: errors.New("its directory is there, the segment is not")}
	}
	return nil
}

// neverMade reports a segment file in which there is nothing. The header is durable before anything else is written: with
// bytes behind it, a header of zeroes is damage. So is a file that can't be read, for all that one knows.
func (s *Store) neverMade(id uint32) bool {
	f, err := s.fs.Open(segmentName(id))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := f.ReadAt(b, off)
		if !allZero(b[:n]) || err != nil && !errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			return true
		}
		off += int64(n)
	}
}

// fillIndex puts the objects of segments into the index that it may not have yet.
func (s *Store) fillIndex(ctx context.Context) error {
	var done []uint32
	for _, g := range s.segments.all() {
		if g.footer > 0 && s.index.Done(g.id) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		objs, err := s.objectsOf(g)
		if err != nil {
			s.noteDamage(g, err)
			continue
		}
		entries := make([]index.Entry, len(objs))
		for i, o := range objs {
			entries[i] = index.Entry{Hash: o.hash, Place: makePlace(g.id, o.block).indexed()}
		}
		if err := s.index.Put(entries); err != nil {
			// A full disk must not keep the store from opening: what the index lacks is found in the segments.
			s.log.Warn("the index can't be filled", "error", err)
			s.missed.Add(int64(len(entries)))
			return nil
		}
		if g.footer > 0 {
			done = append(done, g.id)
		}
	}
	if len(done) == 0 {
		return nil
	}
	s.log.Info("indexed segments", "segments", len(done))
	if err := s.index.MarkDone(done...); err != nil {
		s.log.Warn("the index did not take marks", "error", err)
	}
	return nil
}

func (s *Store) openVolume(ref *volumeRef) (*volume, error) {
	root := s.emptyRoot(ref.size)
	if !ref.root.IsZero() {
		r, err := s.readRoot(ref.root, ref.size)
		if err != nil {
			return nil, err
		}
		root = *r
	}
	v := newVolume(s, ref, newBase(s, root))
	v.baseGen = ref.gen
	return v, nil
}

// replayJournals turns the journals into frozen layers.
func (s *Store) replayJournals() error {
	names, err := s.fs.List(journalDir)
	if err != nil {
		return err
	}
	gens := map[uuid.UUID][]uint64{}
	for _, n := range names {
		var gen uint64
		id, err := uuid.Parse(n[:min(len(n), 36)])
		if err != nil || len(n) != 36+17 {
			s.log.Warn("a file that is none of the store's", "file", journalDir+"/"+n)
			continue
		}
		if _, err := fmt.Sscanf(n[36:], "-%016x", &gen); err != nil {
			s.log.Warn("a file that is none of the store's", "file", journalDir+"/"+n)
			continue
		}
		v := s.volumes[id]
		if v == nil || gen <= v.baseGen {
			// Its volume is gone, or has settled past it.
			if err := s.fs.Remove(journalDir + "/" + n); err != nil {
				return err
			}
			continue
		}
		gens[id] = append(gens[id], gen)
	}
	for id, g := range gens {
		sort.Slice(g, func(i, j int) bool { return g[i] < g[j] })
		if err := s.replayVolume(s.volumes[id], g); err != nil {
			return fmt.Errorf("volume %s: %w", s.volumes[id].ref.name, err)
		}
	}
	if err := s.fs.SyncDir(journalDir); err != nil {
		return err
	}
	return s.checkSnapshots()
}

// checkSnapshots finds snapshots that have not settled and whose generation is lost: they would show whatever
// is written next.
func (s *Store) checkSnapshots() error {
	for _, v := range s.volumes {
		for _, sn := range v.ref.snaps {
			if !sn.settled && !slices.ContainsFunc(v.layers, func(l *layer) bool { return l.gen == sn.gen }) {
				return &CorruptError{
					File: journalName(v.ref.id, sn.gen), Object: "journal",
					Err: fmt.Errorf("it is not there, but snapshot %s@%s needs it", v.ref.name, sn.name),
				}
			}
		}
	}
	return nil
}

func (s *Store) replayVolume(v *volume, gens []uint64) error {
	trust := func(boot, mount bool) bool {
		return boot && (mount || s.opts.TrustCache != nil && s.opts.TrustCache(v.ref.name))
	}
	var replays []*replay
	var drop []string
	complete := true
	for i, gen := range gens {
		name := journalName(v.ref.id, gen)
		rp, err := readJournal(s.fs, name, s.sb.id, v.ref.id, gen, trust, s.origin)
		if err != nil {
			return err
		}
		if rp.short {
			s.log.Warn("a journal is shorter than it was made: a power cut caught its creation, or it is damaged and what it held is lost",
				"file", name, "volume", v.ref.name, "records", len(rp.records))
		}
		// Nothing behind a generation that is incomplete was ever committed.
		if !complete || len(rp.records) == 0 {
			complete = complete && (rp.trusted || rp.final || rp.whole == 0)
			drop = append(drop, name)
			continue
		}
		if want := v.baseGen + uint64(i) + 1; gen != want {
			return &CorruptError{
				File: journalName(v.ref.id, want), Object: "journal",
				Err: fmt.Errorf("it is not there, but generation %d is; refs know the volume up to generation %d", gen, v.baseGen),
			}
		}
		complete = rp.trusted || rp.final
		replays = append(replays, rp)
	}
	// The newest first: a crash on the way must not leave a generation without those before it.
	for _, name := range slices.Backward(drop) {
		if err := s.fs.Remove(name); err != nil {
			return err
		}
	}
	for _, rp := range replays {
		if err := s.replayLayer(v, rp); err != nil {
			return err
		}
	}
	return nil
}

// replayLayer makes a frozen layer of one journal.
func (s *Store) replayLayer(v *volume, rp *replay) error {
	l := newLayer(rp.gen, nil)
	used := map[*segment]bool{}
	sectors := uint64(v.ref.size) / SectorSize
	for i := range rp.records {
		r := &rp.records[i]
		bad := func(why string) error {
			return &CorruptError{File: rp.name, Object: "journal record", Err: fmt.Errorf("record %d: %s", i, why)}
		}
		if r.count == 0 || r.count > sectors || r.sector > sectors-r.count {
			return bad(fmt.Sprintf("%d sectors at %d in a volume of %d", r.count, r.sector, sectors))
		}
		e := extent{end: r.sector + r.count, n: r.count}
		if r.kind == recordData {
			g := s.segments.get(r.segment)
			if g == nil {
				return bad(fmt.Sprintf("segment %08x is not there", r.segment))
			}
			from := int64(r.block) * blockSize
			to := from + roundUp(int64(r.count)*SectorSize, blockSize)
			if r.block == 0 || to > g.capacity {
				return bad(fmt.Sprintf("bytes %d to %d of a segment of %d", from, to, g.capacity))
			}
			e.seg, e.file = g.id, uint64(from)/SectorSize
			used[g] = true
			l.hand(g.id, from, to)
			g.unsettled.Add(to - from)
			l.bytes += int64(r.count) * SectorSize
		}
		l.insert(e)
		l.debt.owe(int64(e.start())*SectorSize, int64(e.end)*SectorSize, int64(s.sb.chunkSize), e.seg == 0)
	}
	l.debt.freeze()
	s.debt.Add(l.debt.bytes)
	s.tails.Add(l.bytes)
	// What this opening takes for good must stay so after the next power cut.
	if rp.trusted {
		for g := range used {
			if err := g.file.Datasync(); err != nil {
				return err
			}
		}
	}
	if err := rp.finish(s.fs, s.sb.id, v.ref.id); err != nil {
		return err
	}
	l.journal = &journal{name: rp.name, final: true}
	v.layers = append(v.layers, l)
	v.tail += l.bytes
	s.log.Info("replayed a journal", "volume", v.ref.name, "generation", rp.gen, "records", len(rp.records), "after_power_cut", !rp.trusted)
	return nil
}

// sweepSegments ends the segments that a former process left open: nothing is appended to them any more.
func (s *Store) sweepSegments() error {
	for _, g := range s.segments.all() {
		if g.footer > 0 || g.unsettled.Load() > 0 {
			continue
		}
		if len(g.objects) == 0 {
			if g.dir != nil {
				if err := g.dir.close(); err != nil {
					return err
				}
				g.dir = nil
				if err := s.fs.Remove(dirName(g.id)); err != nil {
					return err
				}
				// Before the segment goes: a directory without one is damage.
				if err := s.fs.SyncDir(segmentDir); err != nil {
					return err
				}
			}
			if err := s.retire(g); err != nil {
				return err
			}
			continue
		}
		if err := s.sealSegment(g); err != nil {
			return err
		}
	}
	return nil
}
