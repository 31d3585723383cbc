package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
)

// The files of a store that was copied one by one while in use do not belong to one moment: a
// journal that was copied after the segments refers to bytes that were not there yet when those
// were copied, and nothing tells these from zeroes. So a journal records which file it was written
// to (vfs.Identity), and a journal that is found in another file counts in two cases only:
//
//   - The store had been closed cleanly. Closing writes one number into the journals and into the
//     segments that they refer to, and opening removes it from them: files that have the same
//     number were copied while no process had the store open.
//   - An administrator says what was copied (AcceptCopies).
//
// Else the volume is refused like a damaged one. A snapshot of the disk below has the same inodes,
// and is no copy here: it is what a power cut leaves.

// CopiedFrom says in what state a store was when its files were copied.
type CopiedFrom string

const (
	// CopiedStopped says that no process had the store open while its files were copied, or its disk
	// was moved. Its daemon may have been killed before. All that was acknowledged counts.
	CopiedStopped CopiedFrom = "stopped"
	// CopiedSnapshot says that the files were copied from a snapshot of the disk below. All that was
	// flushed counts.
	CopiedSnapshot CopiedFrom = "snapshot"
)

// newClosing returns the number of a clean end. It is never 0.
func newClosing() uint64 { return rand.Uint64() | 1 }

// validateCopy returns why a journal can't count although its records may be whole.
func (p *replayer) validateCopy(rp *journal.Replay) error {
	refuse := func(why string) error {
		return &CorruptError{File: rp.Name(), Object: "journal", Err: fmt.Errorf("%w: %s", ErrCopied, why)}
	}
	switch {
	case rp.Contested && rp.Covered < rp.Last:
		return refuse("a device waits for a server with writes that were not flushed, and whether this is its store, " +
			"on a disk that was mounted anew, or a snapshot of it, can't be told; varve set says which, by --moved or " +
			"--copied-from snapshot")
	case !rp.Copied || rp.Last == 0: // a journal without records can't be wrong
		return nil
	case rp.Closing == 0:
		return refuse("it was copied while the store was in use, or after its daemon was killed, " +
			"and may refer to data that the copies of the segments do not have; varve set --copied-from is for those who know " +
			"that it was of one moment, varve volume repair goes back to what had settled")
	}
	for i := range rp.Records {
		r := &rp.Records[i]
		if g := p.segments.Get(r.Segment); r.Type == journal.Data && g != nil && g.Closing != rp.Closing {
			return refuse(fmt.Sprintf("%s was copied at another time, while the store was in use", segment.Name(g.ID)))
		}
	}
	return nil
}

// stampClosing writes one number into the journals that a clean end leaves and into the segments
// that they refer to: they belong together, and are all there is. Best effort: without the number a
// copy of them is refused.
func (p *replayer) stampClosing(journals []string) {
	if len(journals) == 0 {
		return
	}
	closing := newClosing()
	for _, name := range journals {
		if err := journal.Stamp(p.fs, name, closing); err != nil {
			p.log.Warn("a copy of the store will not count this journal", "file", name, "error", err)
		}
	}
	for _, g := range p.segments.All() {
		if g.Unsettled.Load() > 0 {
			p.stampSegment(g, closing)
		}
	}
}

// stampSegment writes the number of a clean end into a segment; 0 removes it.
func (p *replayer) stampSegment(g *segment.File, closing uint64) {
	if err := g.Stamp(p.store, closing); err != nil {
		p.log.Warn("a copy of the store will not count the journals of this segment", "segment", g.ID, "error", err)
	}
}

// AcceptCopies takes the volumes into service that are refused as copies, on the word of an
// administrator who knows what was copied, and returns their names. A volume whose journal is also
// damaged stays refused, with an error.
func (s *Store) AcceptCopies(ctx context.Context, from CopiedFrom) ([]string, error) {
	if from != CopiedStopped && from != CopiedSnapshot {
		return nil, fmt.Errorf("copied from %q: %w: want %s or %s", from, ErrInvalid, CopiedStopped, CopiedSnapshot)
	}
	var names []string
	var errs []error
	for _, v := range s.catalog.sorted() {
		if err := ctx.Err(); err != nil {
			return names, errors.Join(append(errs, err)...)
		}
		done, err := s.acceptCopy(ctx, v, from)
		if err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", v.Name(), err))
		}
		if done {
			names = append(names, v.Name())
		}
	}
	return names, errors.Join(errs...)
}

func (s *Store) acceptCopy(ctx context.Context, v *volume, from CopiedFrom) (bool, error) {
	if err := v.settleMu.LockContext(ctx); err != nil {
		return false, err
	}
	defer v.settleMu.Unlock()
	d := v.damage.Load()
	if d == nil || d.root || v.dropped.Load() || !errors.Is(d.err, ErrCopied) {
		return false, nil
	}
	if err := s.writeError(); err != nil {
		return false, err
	}
	h, err := s.replayer.readHistoryAs(ctx, v, d.gens, func(bool, bool) journal.Trust {
		return journal.Trust{Cache: from == CopiedStopped, Moved: true}
	})
	if err != nil {
		return false, err
	}
	if h.damage != nil {
		h.damage.gens = d.gens
		v.damage.Store(h.damage)
		return false, h.damage.err
	}
	if err := s.replayer.takeHistory(ctx, v, h); err != nil {
		return false, err
	}
	s.reinstate(v)
	s.log.Warn("the copied journals of a volume count, as the administrator said", "volume", v.Name(), "copied_from", string(from))
	return true, nil
}
