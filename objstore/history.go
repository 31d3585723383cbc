package objstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/refs"
	"varve/objstore/vfs"
)

// A volume's history is what its journals hold beyond the settled state. Opening reads and
// validates all of it before it replays any: nothing behind a damaged record, or behind a missing
// generation, can be trusted. In that case the volume is refused, and the history is assessed: how
// much of it a repair would keep, and what it would lose.

// history is what was read of a volume's journals, in order of generation.
type history struct {
	files   []string
	replays []*journal.Replay
	drop    []string // journals that hold nothing that counts
	damage  *volumeDamage
}

// readHistory reads the journals of a volume, in order, and validates every record.
func (p *replayer) readHistory(ctx context.Context, v *volume, gens []uint64) (*history, error) {
	return p.readHistoryAs(ctx, v, gens, func(boot, mount bool) journal.Trust {
		t := journal.Trust{Cache: boot && mount}
		if boot && !mount {
			name := v.ref.MarkName()
			t.Cache = p.trustCache != nil && p.trustCache(name)
			t.Contested = !t.Cache && p.contested != nil && p.contested(v.ref.ID, v.Name(), name)
		}
		return t
	})
}

// readHistoryAs is readHistory with the caller's decision about which records to trust.
func (p *replayer) readHistoryAs(ctx context.Context, v *volume, gens []uint64, trust func(sameBoot, sameMount bool) journal.Trust) (*history, error) {
	h := &history{files: v.journalNames(gens)}
	empty := -1
	var torn *journal.Replay // the first incomplete generation, or nil
	for i, gen := range gens {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rp, damage, err := p.readGeneration(v, gen, trust)
		if err != nil {
			return nil, err
		}
		// The header of torn can't tell whether a power cut ended it, but that of the next
		// generation can: it was none.
		if torn != nil && torn.BadHeader != nil && rp.Trusted && rp.Whole > 0 {
			torn = nil
		}
		// Nothing behind an incomplete generation can have been committed; if it was, a commit of
		// torn is lost.
		if damage == nil && torn != nil && rp.Covered > 0 {
			p.assessTorn(v, h, torn, gen)
			return h, nil
		}
		if damage == nil && (torn != nil || len(rp.Records) == 0) {
			if torn == nil && !rp.Trusted && !rp.Final && rp.Whole > 0 {
				torn = rp
			}
			h.drop = append(h.drop, rp.Name())
			if empty < 0 && rp.Whole == 0 {
				empty = i
			}
			continue
		}
		// A generation without records is never frozen.
		if empty >= 0 && damage == nil {
			rp = &journal.Replay{ID: journal.ID{Store: p.store, Volume: v.ref.ID, Gen: gens[empty]}, Blind: true}
			damage = &CorruptError{
				File: rp.Name(), Offset: journal.Offset(0), Object: "journal record",
				Err: fmt.Errorf("there is none, but generation %d has some", gen),
			}
			h.drop = nil // all of them come behind the empty one
			h.damage = p.assess(v, h, empty, rp, damage)
			return h, nil
		}
		if want := v.baseGen + uint64(i) + 1; gen != want {
			damage = &CorruptError{
				File: journal.Name(v.ref.ID, want), Object: "journal",
				Err: fmt.Errorf("it is missing, but generation %d exists; refs know the volume up to generation %d", gen, v.baseGen),
			}
			rp.Truncate(0)
			rp.Blind = true
		}
		if damage != nil {
			h.damage = p.assess(v, h, i, rp, damage)
			return h, nil
		}
		if !rp.Trusted && !rp.Final {
			torn = rp
		}
		h.replays = append(h.replays, rp)
	}
	return h, p.validateSnapshots(v, h)
}

// readGeneration reads one journal and validates its records. damage is what is wrong with them: the
// replay ends before it.
func (p *replayer) readGeneration(
	v *volume, gen uint64, trust func(sameBoot, sameMount bool) journal.Trust,
) (rp *journal.Replay, damage, err error) {
	id := journal.ID{Store: p.store, Volume: v.ref.ID, Gen: gen}
	rp, damage = journal.Read(p.fs, id, p.origin, trust)
	if damage != nil && !disk.Damaged(damage) {
		return nil, nil, damage
	}
	if rp == nil {
		rp = &journal.Replay{ID: id, Blind: true}
	}
	if cerr := p.validateCopy(rp); cerr != nil {
		rp.Truncate(0)
		damage = cerr
	}
	if damage == nil {
		damage = p.validateReplay(v, rp)
	}
	if damage == nil && rp.BadHeader != nil {
		p.book.repaired(rp.BadHeader)
	}
	return rp, damage, nil
}

// journalNames returns the names of a volume's journals, relative to the store.
func (v *volume) journalNames(gens []uint64) []string {
	names := make([]string, len(gens))
	for i, gen := range gens {
		names[i] = journal.Name(v.ref.ID, gen)
	}
	return names
}

// assessTorn is assess for a generation without its final commit, while a later generation has
// commits.
func (p *replayer) assessTorn(v *volume, h *history, torn *journal.Replay, later uint64) {
	i := slices.Index(h.files, torn.Name())
	h.replays = slices.DeleteFunc(h.replays, func(rp *journal.Replay) bool { return rp == torn })
	h.drop = slices.DeleteFunc(h.drop, func(name string) bool { return slices.Contains(h.files[i:], name) })
	torn.Blind = true
	h.damage = p.assess(v, h, i, torn, &CorruptError{
		File: torn.Name(), Offset: journal.Offset(torn.Whole), Object: "journal record",
		Err: fmt.Errorf("the commit that ends the generation is not there, but generation %d has one", later),
	})
}

// validateReplay returns what is wrong with a journal whose records are all whole, and truncates
// the replay there.
func (p *replayer) validateReplay(v *volume, rp *journal.Replay) error {
	for i := range rp.Records {
		if err := p.validateRecord(v, &rp.Records[i]); err != nil {
			at := rp.At[i]
			rp.Truncate(at)
			return &CorruptError{File: rp.Name(), Offset: journal.Offset(at), Object: "journal record", Err: err}
		}
	}
	end := journal.Offset(rp.Whole)
	if rp.Short {
		rp.Blind = true
		return &CorruptError{File: rp.Name(), Offset: end, Object: "journal", Err: errors.New("the file is shorter than when it was made")}
	}
	if rp.EndsWithoutRoom() {
		rp.Blind = true
		return &CorruptError{File: rp.Name(), Offset: end, Object: "journal", Err: errors.New("the file ends without the room that a journal always has")}
	}
	return nil
}

// validateSnapshots looks for snapshots that have not settled and whose generation is lost: they
// would show whatever is written next.
func (p *replayer) validateSnapshots(v *volume, h *history) error {
	for _, sn := range p.snapshotsOf(v) {
		there := slices.ContainsFunc(h.replays, func(rp *journal.Replay) bool { return rp.ID.Gen == sn.Gen })
		if sn.Settled || there {
			continue
		}
		err := &CorruptError{
			File: journal.Name(v.ref.ID, sn.Gen), Object: "journal",
			Err: fmt.Errorf("it is missing or empty, but snapshot %s@%s needs it", v.Name(), sn.Name),
		}
		d := &volumeDamage{err: err, journals: h.files, keep: h.replays, drop: h.drop, unknown: 1}
		d.loseSnapshots(p.snapshotsOf(v))
		h.damage = d
		return nil
	}
	return nil
}

// assess returns what a repair of the volume would keep, and what it would lose. rp, journal number
// i, was truncated where the damage is.
func (p *replayer) assess(v *volume, h *history, i int, rp *journal.Replay, cause error) *volumeDamage {
	rp.Cut = true
	d := &volumeDamage{err: cause, journals: h.files, keep: slices.Clone(h.replays), drop: slices.Clone(h.drop)}
	if len(rp.Records) > 0 {
		d.keep = append(d.keep, rp)
	} else {
		d.drop = append(d.drop, rp.Name())
	}
	d.drop = append(d.drop, h.files[i+1:]...)
	from := rp.Whole
	if !rp.Trusted {
		from = rp.Covered
	}
	var lost []journal.Span
	upto := rp.Promised
	for _, name := range h.files[i:] {
		ranges, unknown := readBehind(p.fs, p.store, v.ref.ID, name, from, upto)
		lost = append(lost, ranges...)
		d.unknown += unknown
		from, upto = 0, 0
	}
	if rp.Blind {
		d.unknown++
	}
	d.ranges = mergeRanges(lost, v.Size())
	d.loseSnapshots(p.snapshotsOf(v))
	return d
}

// loseSnapshots notes those of a volume's snapshots that have not settled and whose generation a
// repair does not keep whole.
func (d *volumeDamage) loseSnapshots(snapshots []*refs.Snapshot) {
	for _, sn := range snapshots {
		whole := slices.ContainsFunc(d.keep, func(rp *journal.Replay) bool { return rp.ID.Gen == sn.Gen && (rp.Final || rp.Trusted) && !rp.Cut })
		if !sn.Settled && !whole {
			d.snaps = append(d.snaps, sn.Name)
		}
	}
}

// readBehind returns what the records of a journal have written that a repair would drop, and how
// many records can't be read.
func readBehind(fs vfs.FS, store, volume uuid.UUID, name string, from, upto int) ([]journal.Span, int) {
	_, gen, _, _ := journal.ParseName(path.Base(name))
	return journal.Behind(fs, journal.ID{Store: store, Volume: volume, Gen: gen}, from, upto)
}

// mergeRanges returns sectors as ranges of bytes in order, each byte once, within size.
func mergeRanges(in []journal.Span, size int64) []Range {
	sort.Slice(in, func(i, j int) bool { return in[i].From < in[j].From })
	out := []Range{}
	for _, e := range in {
		from, to := int64(min(e.From, uint64(size)/SectorSize))*SectorSize, int64(min(e.To, uint64(size)/SectorSize))*SectorSize
		if n := len(out); n > 0 && from <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, to-out[n-1].Off)
		} else if to > from {
			out = append(out, Range{from, to - from})
		}
	}
	return out
}
