package objstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"varve/objstore/internal/edges"
	"varve/objstore/internal/merkle"
)

// recount returns what the objects below some roots take on disk, each once, by reading every tree.
func recount(s *Store, roots map[merkle.Hash]int64) (edges.Bytes, error) {
	var sum edges.Bytes
	seen := map[merkle.Hash]bool{}
	var walk func(h merkle.Hash, level int) error
	walk = func(h merkle.Hash, level int) error {
		if h.IsZero() || seen[h] {
			return nil
		}
		seen[h] = true
		if level == 0 {
			sum.Data += int64(s.sb.ChunkSize)
			return nil
		}
		n, err := s.objects.FreshNode(context.Background(), h, level)
		if err != nil {
			return err
		}
		sum.Tree += (int64(len(n.Encode())) + 4095) / 4096 * 4096
		for _, c := range n {
			if err := walk(c, level-1); err != nil {
				return err
			}
		}
		return nil
	}
	for h, size := range roots {
		r, err := s.objects.Root(context.Background(), h, size)
		if err != nil {
			return sum, err
		}
		if r.Top.IsZero() {
			continue
		}
		sum.Tree += 4096
		if err := walk(r.Top, r.Depth); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// nameOf is a name of a root: of a snapshot, or of a volume if Name is empty.
type nameOf = SnapshotName

// namesNow returns all names of settled roots.
func namesNow(s *Store) map[nameOf]sizedRoot {
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	out := map[nameOf]sizedRoot{}
	for name, v := range s.catalog.refs.Volumes {
		out[nameOf{name, ""}] = sizedRoot{root: s.catalog.refs.RootOf(v), size: v.Size}
		for _, sn := range v.Order {
			if sn.Settled {
				out[nameOf{name, sn.Name}] = sizedRoot{root: sn.Root, size: sn.Size}
			}
		}
		for _, p := range s.catalog.past.of(v.ID) {
			out[nameOf{name, p.snap.Name}] = sizedRoot{root: p.snap.Root, size: p.snap.Size}
		}
	}
	return out
}

type sizedRoot struct {
	root merkle.Hash
	size int64
}

// wouldFree recounts what deleting some names would free.
func wouldFree(s *Store, names map[nameOf]sizedRoot, gone func(nameOf) bool) (edges.Bytes, error) {
	all, left := map[merkle.Hash]int64{}, map[merkle.Hash]int64{}
	for n, r := range names {
		all[r.root] = r.size
		if !gone(n) {
			left[r.root] = r.size
		}
	}
	before, err := recount(s, all)
	if err != nil {
		return before, err
	}
	after, err := recount(s, left)
	return edges.Bytes{Data: before.Data - after.Data, Tree: before.Tree - after.Tree}, err
}

func (w *world) opWouldFree() {
	names := namesNow(w.s)
	var volumes []string
	var snaps []SnapshotName
	for _, n := range slices.SortedFunc(maps.Keys(names), func(a, b nameOf) int { return strings.Compare(a.String(), b.String()) }) {
		switch {
		case w.pick(3, "deleted") > 0:
		case n.Name == "":
			volumes = append(volumes, n.Volume)
		default:
			snaps = append(snaps, n)
		}
	}
	ctx, cancel := ctxTimeout()
	defer cancel()
	got, err := w.s.WouldFree(ctx, volumes, snaps)
	w.note("would free %v %v: %+v, %v", volumes, snaps, got, err)
	if errors.Is(err, ErrNotFound) && !maps.Equal(namesNow(w.s), names) {
		return // a state was dropped meanwhile, as what came since has settled
	}
	if !w.answered(err, "would free") {
		return
	}
	if now := namesNow(w.s); !maps.Equal(now, names) {
		return // settling went on meanwhile
	}
	want, err := wouldFree(w.s, names, func(n nameOf) bool {
		return slices.Contains(volumes, n.Volume) || slices.Contains(snaps, n)
	})
	if !w.answered(err, "recount") {
		return
	}
	if got.Data != want.Data || got.Metadata != want.Tree || got.Estimated || got.Total != got.Data+got.Metadata+got.Tail {
		w.failf("deleting %v and %v would free %+v; a recount says %+v", volumes, snaps, got, want)
	}
}

// opUses compares what stat and the list of volumes say that chunks, tree and past states take with
// a recount.
func (w *world) opUses() {
	names := namesNow(w.s)
	ctx, cancel := ctxTimeout()
	defer cancel()
	st, err := w.s.CountedStat(ctx)
	w.note("uses: %+v, %v", st.Uses, err)
	if !w.answered(err, "count uses") {
		return
	}
	list, err := w.s.SharedVolumes(ctx)
	if !w.answered(err, "list volumes with shares") || !maps.Equal(namesNow(w.s), names) {
		return // settling went on meanwhile
	}
	past, err := wouldFree(w.s, names, func(n nameOf) bool { return IsStateName(n.Name) })
	if !w.answered(err, "recount") {
		return
	}
	live, err := wouldFree(w.s, names, func(nameOf) bool { return true })
	if !w.answered(err, "recount") {
		return
	}
	if u := st.Uses; u != nil && u.History != nil { // otherwise it was not counted in time
		w.counts["uses compared"]++
		if want := past.Total(); *u.History != want || u.Data != live.Data-past.Data || u.Tree != live.Tree-past.Tree || u.Total() != st.Used {
			w.failf("uses %+v, of past states %d, in all %d; a recount says %+v, of past states %+v, and %d are used",
				*u, *u.History, u.Total(), live, past, st.Used)
		}
	}
	for _, v := range list {
		past, err := wouldFree(w.s, names, func(n nameOf) bool { return n.Volume == v.Name && IsStateName(n.Name) })
		if !w.answered(err, "recount") {
			return
		}
		if v.Share != nil && v.Share.History != past.Total() {
			w.failf("the past of volume %s takes %+v; a recount says %+v", v.Name, v.Share, past)
		}
	}
}
