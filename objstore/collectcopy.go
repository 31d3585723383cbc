package objstore

import (
	"context"
	"errors"
	"maps"
	"slices"

	"varve/objstore/internal/segment"
)

// evacuate unlinks the segments in which nothing is alive. In the last pass it also copies what lives
// out of segments in which punching is not enough, and unlinks these; in earlier ones the filter
// takes most dead objects for alive. It follows a sweep, with the filter of the sweep. Without room
// for copies the cycle goes on: a later one tries again.
func (y *cycle) evacuate(ctx context.Context) error {
	if y.dryRun {
		return nil
	}
	if err := y.mayFree(); err != nil {
		return err
	}
	segs, known := y.allDead, y.weighed
	y.allDead, y.weighed = nil, nil
	if y.lastPass {
		var err error
		if segs, err = y.s.evacuator.victims(y.filter.Has, known); err != nil {
			return err
		}
	}
	return y.unlinkEvacuated(ctx, segs)
}

// unlinkEvacuated has segments evacuated, and counts that.
func (y *cycle) unlinkEvacuated(ctx context.Context, segs []*segment.File) error {
	e := y.s.evacuator
	e.pace = y.pace
	done, err := e.evacuate(ctx, segs, y.filter.Has)
	y.report.Copied += done.copied
	y.report.Written += done.copied
	y.report.Dead += done.dead
	y.report.Retired += done.segments
	y.addFreed(done.freed - done.copied)
	if errors.Is(err, ErrNoSpace) {
		y.unfreed = err
		return nil
	}
	return err
}

// addFreed counts bytes that were given back.
func (y *cycle) addFreed(n int64) {
	y.report.Freed += n
	y.mu.Lock()
	y.state.Freed = y.report.Freed
	y.mu.Unlock()
}

// weigh keeps what a sweep has left of a segment, for what decides whether it is evacuated: found has
// the objects that are listed still.
func (y *cycle) weigh(g *segment.File, found *segment.Shrinking) error {
	used, err := y.s.usage.ofSegment(g)
	if err == nil {
		y.keepWeight(weighed{
			g: g, used: used, alive: found.Alive, objects: len(found.Live) + len(found.Dead), footer: g.FooterSize(), known: true,
		})
	}
	return err
}

func (y *cycle) keepWeight(w weighed) {
	if y.weighed == nil {
		y.weighed = map[*segment.File]weighed{}
	}
	y.weighed[w.g] = w
}

// foretell counts what freeing a segment's dead objects would do, for a dry run, and keeps what
// decides whether it would be evacuated then. What earlier passes have found dead is gone for it.
func (y *cycle) foretell(g *segment.File, found *segment.Shrinking) error {
	w, again := y.weighed[g]
	with, without := found.Footers()
	if !again {
		used, err := y.s.usage.file(segment.Name(g.ID))
		if err != nil {
			return err
		}
		if g.FooterSize() == 0 {
			used += with // when it is sealed
		}
		w = weighed{g: g, used: used, alive: found.All(), objects: len(found.Live) + len(found.Dead), footer: with, known: true}
	}
	w.alive -= found.All() - found.Alive
	switch {
	case w.objects == 0: // an earlier pass has found the last of it dead
	case w.alive == 0:
		y.report.Dead += int64(len(found.Dead))
		y.report.Freed += w.used
		y.report.Retired++
		w.used, w.objects, w.known = 0, 0, false
	case y.worthFreeing(g, with, found.Bytes()):
		y.count(g, found)
		freed := found.Bytes() + with - without
		y.report.Freed += freed
		w.used, w.objects, w.footer = w.used-freed, w.objects-len(found.Dead), w.footer-(with-without)
	default:
		y.report.Kept += found.Kept + found.Bytes()
	}
	y.keepWeight(w)
	return nil
}

// foretellEvacuation counts what the evacuation behind the last sweep would free, for a dry run.
func (y *cycle) foretellEvacuation() error {
	if !y.lastPass {
		return nil
	}
	chosen, err := y.s.evacuator.choose(slices.Collect(maps.Values(y.weighed)))
	y.weighed = nil
	if err != nil {
		return err
	}
	for i := range chosen {
		y.report.Freed += max(chosen[i].used-chosen[i].alive, 0)
		y.report.Retired++
		y.report.Copied += chosen[i].alive
		y.report.Kept -= max(chosen[i].waste(), 0)
	}
	y.report.Kept = max(y.report.Kept, 0)
	return nil
}
