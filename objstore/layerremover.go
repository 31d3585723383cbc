package objstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"

	"varve/objstore/failpoint"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// layerRemover removes layers that are not needed any more, with their journals, and frees the
// space of their writes: layers that have settled (deadLayer), and layers of a volume that was
// deleted or rolled back, which will not settle (drop).
//
// Invariants:
//
//   - Refs know before that the volume continues without the layer: a journal is removed without
//     making that durable, since an opening that finds the journal removes it again.
//   - Readers of the layer are waited for, without the volume's settleMu: a settling must not wait
//     for readers.
//   - What an object log names stays, in whatever layer it was written.
//   - A crash in between leaves space that the next opening finds.
//
// It has no lock of its own; what is done to a segment is done under the settleMu of the volume.
type layerRemover struct {
	fs       vfs.FS
	segments *segment.Table
	leaves   *leafCache
	sealer   *sealer
	closed   <-chan struct{} // closed when the store closes
}

// deadLayer is a layer that has settled, with its journal and what it occupies.
type deadLayer struct {
	remover *layerRemover
	v       *volume
	l       *layer
	pinned  *segment.Pin // what reclaim waits for; nil: not yet known
}

// reclaim does step F of a settling: it removes the journal, and returns the layer's space to the
// file system, except adopted objects. A reclaim that ctx has ended begins again after Resume.
func (d *deadLayer) reclaim(ctx context.Context) error {
	r, v := d.remover, d.v
	if j := d.l.journal; j != nil {
		v.commitMu.Lock() // a commit that began before the layer had settled may write to it
		j.Close()
		v.commitMu.Unlock()
		if err := removeJournal(r.fs, j.Name()); err != nil {
			return err
		}
	}
	failpoint.Here(failpoint.ReclaimJournal)
	r.leaves.trim()
	if d.pinned == nil {
		v.mu.Lock()
		d.pinned = v.replacePin()
		v.mu.Unlock()
	}
	select {
	case <-d.pinned.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := v.settleMu.LockContext(ctx); err != nil {
		return err
	}
	defer v.settleMu.Unlock()
	touched := map[*segment.File]bool{}
	r.punchSlots(d.l, touched)
	d.l.handed = nil
	failpoint.Here(failpoint.ReclaimPunched)
	return r.endAll(v, touched)
}

// abandon closes the journal of the layer; the next opening removes it, and punches what the layer
// occupied.
func (d *deadLayer) abandon() {
	if j := d.l.journal; j != nil {
		j.Close()
	}
}

// dropVolume frees what a deleted volume had not settled.
func (r *layerRemover) dropVolume(v *volume) error {
	layers, readers := v.end()
	if !r.waitReaders(readers) {
		return nil
	}
	if d := v.damage.Load(); d != nil {
		for _, name := range d.journals {
			if err := removeJournal(r.fs, name); err != nil {
				return err
			}
		}
	}
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	return r.drop(v, layers)
}

// waitReaders returns when a pin is done. It returns false if the store is being closed; the next
// opening then frees what the readers keep.
func (r *layerRemover) waitReaders(p *segment.Pin) bool {
	select {
	case <-p.Done():
		return true
	case <-r.closed:
		return false
	}
}

// drop removes the journals of layers that will not settle, and frees what their writes occupy. The
// journals are closed.
// REQUIRES: v.settleMu is held, and no plan reads the layers.
func (r *layerRemover) drop(v *volume, layers []*layer) error {
	touched := map[*segment.File]bool{}
	v.mu.Lock()
	if v.appendSegment != nil {
		touched[v.appendSegment] = true
	}
	v.mu.Unlock()
	for _, l := range layers {
		if err := removeJournal(r.fs, l.journal.Name()); err != nil {
			return err
		}
		failpoint.Here(failpoint.VolumeDropped)
		r.punchSlots(l, touched)
	}
	return r.endAll(v, touched)
}

// punchSlots frees the space of a layer's writes, except objects, and adds their segments to
// touched. What a segment's list names stays: this settling has adopted it, or an earlier one had,
// which a crash or an error ended before its root was published, and this one found it through the
// index.
// REQUIRES: volume.settleMu is held, and no plan reads the layer.
func (r *layerRemover) punchSlots(l *layer, touched map[*segment.File]bool) {
	kept := map[*segment.File][]segment.Object{}
	for _, h := range mergeSlots(l.handed) {
		g := r.segments.Get(h.seg)
		if g == nil {
			continue
		}
		if _, ok := kept[g]; !ok {
			kept[g] = g.OpenObjects()
		}
		touched[g] = true
		_ = r.sealer.punch(g, h.from, h.to, kept[g]) // the log has it
		g.Unsettled.Add(h.from - h.to)
	}
}

// endAll ends those segments of a volume whose writes have all settled.
// REQUIRES: v.settleMu is held.
func (r *layerRemover) endAll(v *volume, touched map[*segment.File]bool) error {
	for g := range touched {
		if err := r.sealer.endOf(v, g); err != nil {
			return err
		}
	}
	return nil
}

// removeJournal removes a journal. One that an earlier attempt has removed is no error.
func removeJournal(fs vfs.FS, name string) error {
	if err := fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove journal: %w", err)
	}
	return nil
}

// mergeSlots sorts slots and joins those that touch.
func mergeSlots(in []slots) []slots {
	sort.Slice(in, func(i, j int) bool {
		if in[i].seg != in[j].seg {
			return in[i].seg < in[j].seg
		}
		return in[i].from < in[j].from
	})
	out := in[:0]
	for _, h := range in {
		if n := len(out); n > 0 && out[n-1].seg == h.seg && out[n-1].to == h.from {
			out[n-1].to = h.to
			continue
		}
		out = append(out, h)
	}
	return out
}
