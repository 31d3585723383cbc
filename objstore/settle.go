package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
)

// settling turns the oldest frozen layer of a volume into objects: chunks, tree nodes, a root. One
// settling at a time runs in a store. Its steps:
//
//	A  read and hash each touched chunk. If the store has it, refer to that copy; if it lies whole in an append
//	   segment, adopt it there; otherwise copy it. Then make the touched nodes, from the leaves to the root
//	B  make the data durable: copies, nodes, adopted append segments
//	C  record the objects in their segments' object logs, durably; from here on other settlings may refer to them
//	D  append the new root to refs, durably; from here on the layer's journal is not needed
//	E  in memory: the new base, without the layer
//	F  remove the journal, punch what the layer occupied and was not adopted, seal full segments
//
// A crash, or an error, before D leaves objects that nothing refers to, and a layer to settle
// again.
type settling struct {
	*layerSettler

	ctx context.Context //nolint:containedctx // a settling is one call, spread over methods
	v   *volume
	l   *layer
	old merkle.Root

	fresh    map[merkle.Hash]segment.Location // objects of this settling, not in the index yet
	added    map[*segment.File][]segment.Object
	copied   []slots // of the fresh objects that were written to the store's own segments
	leaves   map[int64]*leaf
	logical  int64 // change in bytes that are not holes
	erased   erasures
	buf      []byte
	plan     Plan
	view     [1]*layer
	base     *base
	pins     *damagePins // nil: all settles
	restores bool        // an object that was lost is stored again

	hits    []hit                     // of the run that settles now
	own     map[segment.Location]bool // the locations of fresh objects
	copyBuf []byte                    // what confirm has read

	oldChunk    []byte // the chunk that readOld has read last
	oldLocation segment.Location
}

// settle settles the volume's oldest frozen layer, if it has one.
func (s *layerSettler) settle(ctx context.Context, v *volume) error {
	if err := s.gate.writeError(); err != nil {
		return err
	}
	if err := v.settleMu.LockContext(ctx); err != nil {
		return err
	}
	defer v.settleMu.Unlock()
	v.mu.Lock()
	n := len(v.layers)
	if v.writable {
		n--
	}
	if n <= 0 {
		v.mu.Unlock()
		return nil
	}
	st := s.begin(ctx, v, v.layers[0])
	v.mu.Unlock()
	defer s.barrier.settle()()
	start := time.Now()
	if err := st.lookAhead(); err != nil {
		return err
	}
	if err := st.surveyErasures(); err != nil {
		return err
	}
	root, err := st.tree()
	if err == nil {
		failpoint.Here(failpoint.SettleTree)
		err = st.durable()
	}
	if err == nil {
		err = st.flushRelogged()
	}
	if err != nil {
		st.undo()
		return err
	}
	if err := st.publish(root); err != nil {
		return err
	}
	v.counted = nil
	s.barrier.mayHaveDied(st.l.bytes + max(-st.logical, 0))
	s.log.Debug("settled", "volume", v.Name(), "generation", st.l.gen, "bytes", st.l.bytes,
		"objects", len(st.fresh), "seconds", time.Since(start).Seconds())
	s.reclaimer.add(ctx, v, s.dead(v, st.l))
	return nil
}

// begin begins the settling of a layer over the volume's base.
// REQUIRES: v.settleMu and v.mu are held; the first until the settling ends.
func (s *layerSettler) begin(ctx context.Context, v *volume, l *layer) *settling {
	return &settling{
		layerSettler: s, ctx: ctx, v: v, l: l, old: v.base.root, base: v.base, view: [1]*layer{l},
		fresh: map[merkle.Hash]segment.Location{}, own: map[segment.Location]bool{}, added: map[*segment.File][]segment.Object{}, leaves: map[int64]*leaf{},
	}
}

// tree does step A and returns the new root.
func (st *settling) tree() (*merkle.Root, error) {
	root := st.old
	var err error
	if root.Top, err = st.top(); err != nil {
		return nil, err
	}
	return &root, st.storeRoot(&root)
}

// top stores the nodes that the layer changes, and returns the hash of the top node.
func (st *settling) top() (merkle.Hash, error) {
	if _, touched := st.l.extents.Next(0); !touched {
		return st.old.Top, nil
	}
	return st.update(st.old.Depth, 0, st.old.Top)
}

func (st *settling) storeRoot(root *merkle.Root) error {
	enc := root.Encode()
	_, err := st.store(merkle.KindRoot, merkle.Sum(merkle.KindRoot, enc), enc)
	return err
}

// update returns the new hash of node i of a level, whose hash was h.
func (st *settling) update(level int, i int64, h merkle.Hash) (merkle.Hash, error) {
	chunk := uint64(st.old.ChunkSize) / SectorSize
	span := uint64(merkle.Span(level)) * chunk
	from := uint64(i) * span
	at, touched := st.l.extents.Next(from)
	if !touched || at >= from+span {
		return h, nil
	}
	end := min(from+span, uint64(st.old.Size)/SectorSize)
	if st.l.extents.Hole(from, end) {
		return merkle.Hash{}, nil
	}
	n := new(merkle.Node)
	if !h.IsZero() {
		old, err := st.objects.Node(st.ctx, h, level)
		if err != nil {
			return h, err
		}
		*n = *old
	}
	var err error
	if level == 1 {
		err = st.leaf(i, n, at, end)
	} else {
		child := span / merkle.FanOut
		for at < end {
			c := (at - from) / child
			if n[c], err = st.update(level-1, i*merkle.FanOut+int64(c), n[c]); err != nil {
				return h, err
			}
			if at, touched = st.l.extents.Next(from + (c+1)*child); !touched {
				break
			}
		}
	}
	if err != nil {
		return h, err
	}
	enc := n.Encode()
	if len(enc) == 0 {
		return merkle.Hash{}, nil
	}
	k := merkle.NodeKind(level)
	h = merkle.Sum(k, enc)
	_, err = st.store(k, h, enc)
	st.objects.KeepNode(h, n)
	return h, err
}

// leaf brings the chunks of leaf i that the layer touches, from sector at on, up to date in n.
func (st *settling) leaf(i int64, n *merkle.Node, at, end uint64) error {
	before := n.Count()
	out := &leaf{used: true}
	st.leaves[i] = out
	if int64(len(st.leaves)) > st.cache.limit {
		st.leaves[i] = nil // the cache has no room for more: the next reader loads it
	}
	if err := st.oldLocations(i, n, out); err != nil {
		return err
	}
	chunk := uint64(st.old.ChunkSize) / SectorSize
	for at < end {
		from := at / chunk * chunk
		to := from + chunk
		for { // the run of touched chunks
			next, ok := st.l.extents.Next(to)
			if !ok || next/chunk*chunk != to || to >= end || (to-from)*SectorSize >= MaxRequest/4 {
				break
			}
			to += chunk
		}
		if err := st.pace(int(to-from) * SectorSize); err != nil {
			return err
		}
		if err := st.runs(from, min(to, uint64(st.old.Size)/SectorSize), n, out); err != nil {
			return err
		}
		next, ok := st.l.extents.Next(to)
		if !ok {
			break
		}
		at = next
	}
	st.logical += int64(n.Count()-before) * int64(st.old.ChunkSize)
	st.erased.data += int64(n.Count()) * int64(st.old.ChunkSize)
	return nil
}

// undo frees what a failed settling has copied and not recorded: tried again and again, it
// would use up the room that it needs.
func (st *settling) undo() {
	if st.gate.writeError() != nil {
		return // it is not known what was recorded
	}
	for _, c := range st.copied {
		g := st.segments.Get(c.seg)
		if _, kept, _, _ := g.Listed(uint32(c.from / disk.BlockSize)); !kept {
			st.punch(g, c.from, c.to)
		}
	}
}

// pace waits while the volumes are busy and the tail is short.
func (st *settling) pace(n int) error {
	if st.v.dropped.Load() {
		return fmt.Errorf("volume %s: %w", st.v.Name(), ErrNotFound)
	}
	return st.giveWay(st.ctx, st.v, n)
}

// Settle returns when everything written before the call has settled. What a damaged chunk pins in
// the tail does not settle, and is an error.
func (s *Store) Settle(ctx context.Context) error {
	for _, v := range s.catalog.all() {
		if err := ctx.Err(); err != nil {
			return err
		}
		gen, err := v.freeze()
		if err != nil {
			return err
		}
		if err := s.settler.waitSettled(ctx, v, gen); err != nil {
			return err
		}
	}
	if err := s.waitReclaimed(ctx, nil); err != nil {
		return err
	}
	var pinned []error
	for _, v := range s.catalog.all() {
		pinned = append(pinned, v.pinnedError())
	}
	return errors.Join(pinned...)
}
