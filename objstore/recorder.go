package objstore

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"

	"varve/objstore/failpoint"
	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// recorder lists and indexes objects that were written to segments, and forgets those that are
// gone. An object goes through three states:
//
//	written    its bytes are durable; nothing refers to it, and an opening does not find it
//	listed     it is in the object log of its segment, durably (list)
//	known      it counts in the figures, and is found through the index (enter)
//
// The order is the caller's to keep: bytes are synced before list. The index is a hint: an entry
// that can't be written is written later by the indexer, and one that can't be removed stays.
//
// It has no lock; several segments may be recorded at the same time.
type recorder struct {
	fs      vfs.FS
	store   uuid.UUID
	index   *storeIndex
	objects *object.Reader
	count   func(*segment.Object) // called for each object that has become known
	gate    gate
	log     *slog.Logger
}

// list enters objects into the object log of their segment, durably. After ErrNoSpace and transient
// errors they are not in it; after any other error the store is read-only.
func (r *recorder) list(g *segment.File, objs []segment.Object) error {
	err := g.Add(r.fs, r.store, objs)
	if errors.Is(err, ErrNoSpace) || disk.Transient(err) {
		return r.gate.spaceError(err)
	}
	if err != nil {
		return r.gate.fail(fmt.Errorf("record objects of %s: %w", segment.Name(g.ID), err))
	}
	return nil
}

// enter counts listed objects and enters them into the index.
func (r *recorder) enter(g *segment.File, objs []segment.Object) {
	entries := make([]index.Entry, len(objs))
	for i := range objs {
		r.count(&objs[i])
		entries[i] = index.Entry{Hash: objs[i].Hash, Location: indexed(segment.At(g.ID, objs[i].Block))}
	}
	if err := r.index.put(entries); err != nil {
		r.log.Warn("new objects were not entered into the index; the indexer tries again", "error", err)
		r.index.lacks(g.ID)
	}
	r.objects.Stored(objs)
}

// forget removes from the index objects that a segment no longer holds.
func (r *recorder) forget(g *segment.File, gone []segment.Object) {
	entries := make([]index.Entry, 0, indexBatch)
	for batch := range slices.Chunk(gone, indexBatch) {
		entries = entries[:0]
		for i := range batch {
			loc := segment.At(g.ID, batch[i].Block)
			r.objects.Gone(loc)
			entries = append(entries, index.Entry{Hash: batch[i].Hash, Location: indexed(loc)})
		}
		if err := r.index.remove(entries); err != nil {
			r.log.Warn("dead objects stay in the index", "segment", g.ID, "error", err)
			break
		}
	}
	failpoint.Here(failpoint.CollectIndexed)
}

// storedBytes are the bytes of the objects that the segments list.
type storedBytes struct {
	chunks atomic.Int64
	nodes  atomic.Int64 // and roots
}

// count counts an object that was listed.
func (b *storedBytes) count(o *segment.Object) {
	if o.Kind == merkle.KindChunk {
		b.chunks.Add(int64(o.Length))
	} else {
		b.nodes.Add(int64(o.Length))
	}
}

// add adds the objects of a segment, or the difference that a change of its list makes.
func (b *storedBytes) add(chunks, nodes int64) {
	b.chunks.Add(chunks)
	b.nodes.Add(nodes)
}

func (b *storedBytes) total() int64 { return b.chunks.Load() + b.nodes.Load() }
