package objstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"varve/objstore/failpoint"
	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/record"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// settling turns the oldest frozen layer of a volume into tree nodes: one at a time in a store.
//
//	A  for each touched chunk: read, hash; known: point there; whole in the append segment: adopt in place; else copy.
//	   Then the touched nodes, from the leaves to the root.
//	B  make the data durable: copies, nodes, adopted append segments
//	C  record the objects in their segments' object logs, durable; from here on others may be pointed to them
//	D  append the new root to refs, durable; from here on the journal of the layer is not needed
//	E  in memory: the new base, without the layer
//	F  remove the journal, punch what the layer occupied and nobody adopted, seal full segments
//
// A crash, or an error, before D leaves objects that nobody refers to, and a layer to settle again.
type settling struct {
	ctx context.Context //nolint:containedctx // a settling is one call, spread over methods
	s   *Store
	v   *volume
	l   *layer
	old merkle.Root

	fresh    map[merkle.Hash]segment.Location // objects of this settling, not in the index yet
	added    map[*segment.File][]segment.Object
	copied   []slots // where those of them lie that were written to the store's own segments
	leaves   map[int64]*leaf
	logical  int64 // change in bytes that are not holes
	erased   erasures
	buf      []byte
	plan     Plan
	view     [1]*layer
	base     *base
	pins     *damagePins // nil: all settles
	pinned   *pin        // what reclaiming waits for
	restores bool        // an object that was lost is stored again

	hits    []hit                     // of the run that settles now
	own     map[segment.Location]bool // where fresh objects lie
	copyBuf []byte                    // what confirming has read

	oldChunk    []byte // the chunk that readOld has read last
	oldLocation segment.Location
}

// settleLayer settles the volume's oldest frozen layer, if it has one.
func (s *Store) settleLayer(ctx context.Context, v *volume) error {
	if err := s.writeError(); err != nil {
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
	st := &settling{
		ctx: ctx, s: s, v: v, l: v.layers[0], old: v.base.root, base: v.base,
		fresh: map[merkle.Hash]segment.Location{}, own: map[segment.Location]bool{}, added: map[*segment.File][]segment.Object{}, leaves: map[int64]*leaf{},
	}
	v.mu.Unlock()
	st.view[0] = st.l
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
	s.log.Debug("settled", "volume", v.ref.Name, "generation", st.l.gen, "bytes", st.l.bytes,
		"objects", len(st.fresh), "seconds", time.Since(start).Seconds())
	st.fresh, st.own, st.leaves, st.buf, st.copyBuf, st.hits = nil, nil, nil, nil, nil, nil // reclaiming may take long
	s.reclaimer.add(ctx, v, st)
	return nil
}

// tree does step A and gives the new root.
func (st *settling) tree() (*merkle.Root, error) {
	root := st.old
	if _, touched := st.l.extents.Next(0); touched {
		top, err := st.update(root.Depth, 0, root.Top)
		if err != nil {
			return nil, err
		}
		root.Top = top
	}
	enc := root.Encode()
	if _, err := st.store(merkle.KindRoot, merkle.Sum(merkle.KindRoot, enc), enc); err != nil {
		return nil, err
	}
	return &root, nil
}

// update gives the new hash of node i of a level, whose hash was h.
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
		old, err := st.s.objects.Node(h, level)
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
	st.s.objects.KeepNode(h, n)
	return h, err
}

// leaf brings the chunks of leaf i that the layer touches, from sector at on, up to date in n.
func (st *settling) leaf(i int64, n *merkle.Node, at, end uint64) error {
	before := n.Count()
	out := &leaf{used: true}
	st.leaves[i] = out
	if int64(len(st.leaves)) > st.s.opts.LeafCache/leafBytes {
		st.leaves[i] = nil // forgotten in memory: the next reader loads it
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

// oldPlaces fills in where the leaf's chunks lay before.
func (st *settling) oldLocations(i int64, n *merkle.Node, out *leaf) error {
	st.v.mu.Lock()
	if l := st.v.base.leaf(i); l != nil {
		out.locations, out.repairGen = l.locations, l.repairGen
		st.v.mu.Unlock()
		return nil
	}
	st.v.mu.Unlock()
	if n.Count() == 0 {
		return nil
	}
	l, err := st.s.resolve(n)
	if err == nil {
		out.locations, out.repairGen = l.locations, l.repairGen
	}
	return err
}

// runs is run, and keeps the chunks that can't settle.
func (st *settling) runs(from, to uint64, n *merkle.Node, out *leaf) error {
	var old *oldError
	err := st.run(from, to, n, out)
	if !errors.As(err, &old) {
		st.met(from, to, err)
		return err
	}
	for chunk := uint64(st.old.ChunkSize) / SectorSize; from < to; from += chunk {
		end := min(from+chunk, to)
		err := st.run(from, end, n, out)
		if errors.As(err, &old) {
			err = st.pinByDamage(from, end, old.err)
		}
		if err != nil {
			st.met(from, end, err)
			return err
		}
	}
	return nil
}

// run settles the chunks of the sectors [from, to), which all are touched.
func (st *settling) run(from, to uint64, n *merkle.Node, out *leaf) error {
	size := uint64(st.old.ChunkSize)
	chunk := size / SectorSize
	length := int(to-from) * SectorSize
	full := disk.RoundUp(int64(length), int64(size))
	if int64(cap(st.buf)) < full {
		st.buf = disk.AlignedBuffer(int(full))
	}
	buf := st.buf[:full]
	if err := st.read(buf, from, to); err != nil {
		return err
	}
	slot := from / chunk % merkle.FanOut
	if err := st.lookUp(buf, slot, n, out); err != nil {
		return err
	}
	for i, h := range st.hits {
		o := i * int(size)
		if err := st.chunk(h, buf[o:o+int(size)], o, length, slot+uint64(i), n, out); err != nil {
			return err
		}
	}
	return nil
}

// read fills buf with the sectors [from, to) as the frozen layer over the base has them, and zeroes the rest.
// st.plan then says where they lie.
func (st *settling) read(buf []byte, from, to uint64) error {
	off, length := int64(from)*SectorSize, int64(to-from)*SectorSize
	for {
		st.plan.Pieces = st.plan.Pieces[:0]
		st.v.mu.Lock()
		err := planLayers(st.view[:], st.v.base, &st.plan, from, to)
		st.v.mu.Unlock()
		if err == nil {
			break
		}
		if disk.Damaged(err) {
			return &oldError{err}
		}
		if err != ErrNotLoaded { //nolint:errorlint // a plan gives it bare
			return err
		}
		if err := st.s.load(st.ctx, &st.v.mu, func() *base { return st.v.base }, off, length); err != nil {
			return err
		}
	}
	clear(buf[length:])
	for i := range st.plan.Pieces {
		c := &st.plan.Pieces[i]
		b := buf[c.BufOff : c.BufOff+c.Len]
		var err error
		switch {
		case c.Hole:
			clear(b)
		case c.settled:
			err = st.readOld(c, off+int64(c.BufOff), b)
		default:
			if err = disk.ReadAligned(c.seg.Data, b, c.FileOff); err != nil {
				err = readError(c, err)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readOld fills b with what is left of chunks that the layer changes in part: the bytes of the image at off. They get a
// new hash with the others, and so are checked against the old one: what has become wrong must not be made right.
func (st *settling) readOld(c *Piece, off int64, b []byte) error {
	size := int64(st.old.ChunkSize)
	if st.oldChunk == nil {
		st.oldChunk = disk.AlignedBuffer(int(size))
	}
	at := off
	for len(b) > 0 {
		first := at / size * size
		from := c.FileOff + first - off
		if pl := segment.At(c.seg.ID, uint32(from/disk.BlockSize)); pl != st.oldLocation {
			st.oldLocation = 0
			k := verifier{s: st.s, root: st.old, image: st.v.ref.Name}
			if err := k.chunks(c.seg, from, first, st.oldChunk); disk.Damaged(err) {
				return &oldError{err}
			} else if err != nil {
				return err
			}
			st.oldLocation = pl
			st.s.objects.Verified.Add(pl)
		}
		n := copy(b, st.oldChunk[at-first:])
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// chunk decides about one chunk: its bytes, which begin at o of the run that st.plan describes, and what is known of them.
func (st *settling) chunk(known hit, data []byte, o, length int, slot uint64, n *merkle.Node, out *leaf) error {
	h, pl := known.hash, known.at
	if h.IsZero() {
		n[slot], out.locations[slot] = merkle.Hash{}, 0
		return nil
	}
	if h == n[slot] && pl != 0 && pl == out.locations[slot] {
		return nil
	}
	st.restores = st.restores || h == n[slot]
	n[slot] = h
	if pl == 0 {
		pl = st.fresh[h] // of a chunk before it in the run
	}
	ok := pl != 0
	if !ok && o+len(data) <= length {
		pl, ok = st.adopt(h, o, len(data))
	}
	if !ok {
		var err error
		if pl, err = st.append(merkle.KindChunk, h, data); err != nil {
			return err
		}
	}
	out.locations[slot] = pl
	return nil
}

// find looks for an object that the store holds already.
func (st *settling) find(h *merkle.Hash, k merkle.Kind) (segment.Location, bool) {
	if pl, ok := st.fresh[*h]; ok {
		return pl, true
	}
	pl, ok := st.s.objects.Lookup(h, k)
	st.restores = st.restores || !ok && pl != 0 // it is lost where the index knew it: this settling brings it back
	return pl, ok
}

// adopt makes an object of a chunk that lies whole and aligned in an append segment.
func (st *settling) adopt(h merkle.Hash, o, size int) (segment.Location, bool) {
	for i := range st.plan.Pieces {
		c := &st.plan.Pieces[i]
		if o < c.BufOff || o+size > c.BufOff+c.Len {
			continue
		}
		at := c.FileOff + int64(o-c.BufOff)
		if c.Hole || c.settled || at%disk.BlockSize != 0 || c.seg.Damaged() {
			return 0, false
		}
		return st.record(c.seg, segment.Object{Hash: h, Block: uint32(at / disk.BlockSize), Length: uint32(size), Kind: merkle.KindChunk}), true
	}
	return 0, false
}

func (st *settling) record(g *segment.File, o segment.Object) segment.Location {
	pl := segment.At(g.ID, o.Block)
	st.fresh[o.Hash], st.own[pl] = pl, true
	st.added[g] = append(st.added[g], o)
	return pl
}

// store puts an object into the store unless it is there.
func (st *settling) store(k merkle.Kind, h merkle.Hash, data []byte) (segment.Location, error) {
	if pl, ok := st.find(&h, k); ok {
		if ok = st.trusts(pl); !ok {
			var err error
			if ok, err = st.confirm(k, &h, pl, data); err != nil {
				return 0, err
			}
		}
		if ok {
			return pl, nil
		}
	}
	return st.append(k, h, data)
}

// append copies an object into the store's own open segment.
func (st *settling) append(k merkle.Kind, h merkle.Hash, data []byte) (segment.Location, error) {
	g, off, err := st.s.settler.copies.slot(st.ctx, int64(len(data)))
	if err != nil {
		return 0, err
	}
	if err := disk.WriteAligned(g.Data, data, off); err != nil {
		return 0, st.s.spaceError(fmt.Errorf("write %v: %w", k, err))
	}
	st.copied = append(st.copied, slots{g.ID, off, off + disk.RoundUp(int64(len(data)), disk.BlockSize)})
	failpoint.Here(failpoint.SettleCopied)
	return st.record(g, segment.Object{Hash: h, Block: uint32(off / disk.BlockSize), Length: uint32(len(data)), Kind: k}), nil
}

// undo gives back what a settling that failed has copied and not recorded: tried again and again, it would eat
// the room that it needs.
func (st *settling) undo() {
	if st.s.writeError() != nil {
		return // nobody knows what is recorded
	}
	for _, c := range st.copied {
		g := st.s.segments.Get(c.seg)
		if _, kept, _, _ := g.Listed(uint32(c.from / disk.BlockSize)); !kept {
			st.s.punchBetween(g, c.from, c.to, nil)
		}
	}
}

// pace waits while the volumes are busy and the tail is short.
func (st *settling) pace(n int) error {
	if st.v.dropped.Load() {
		return fmt.Errorf("volume %s: %w", st.v.ref.Name, ErrNotFound)
	}
	return st.s.pace(st.ctx, st.v, n)
}

// durable does steps B and C.
func (st *settling) durable() error {
	segs := slices.Collect(maps.Keys(st.added))
	err := disk.Parallel(segs, func(g *segment.File) error {
		if err := g.Data.Datasync(); err != nil {
			return st.v.failSync(segment.Name(g.ID), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	failpoint.Here(failpoint.SettleSynced)
	if err := disk.Parallel(segs, st.recordIn); err != nil {
		return err
	}
	if st.restores {
		st.s.objects.Quarantine.Repaired()
	}
	return nil
}

// recordIn does step C for one segment.
func (st *settling) recordIn(g *segment.File) error {
	objs := st.added[g]
	err := g.Add(st.s.fs, st.s.sb.ID, objs)
	if errors.Is(err, ErrNoSpace) || disk.Transient(err) {
		return st.s.spaceError(err)
	}
	if err != nil {
		return st.s.fail(fmt.Errorf("record objects of %s: %w", segment.Name(g.ID), err))
	}
	failpoint.Here(failpoint.SettleRecorded)
	st.index(g, objs)
	failpoint.Here(failpoint.SettleIndexed)
	return nil
}

// index enters objects that are recorded.
func (st *settling) index(g *segment.File, objs []segment.Object) {
	entries := make([]index.Entry, len(objs))
	for i, o := range objs {
		st.s.countObject(o)
		entries[i] = index.Entry{Hash: o.Hash, Location: indexed(segment.At(g.ID, o.Block))}
	}
	if err := st.s.index.put(entries); err != nil {
		st.s.log.Warn("the index did not take new objects; it is tried again", "error", err)
		st.s.index.lacks(g.ID)
	}
	st.s.objects.Stored(objs)
}

// objectLogLengths says how long the object logs are: those that this settling has written to, and those whose objects one
// has recorded that was cut off, which this one has found.
func (s *Store) objectLogLengths() map[uint32]int64 {
	out := map[uint32]int64{}
	for _, g := range s.segments.All() {
		if n := g.ObjectLogSize(); n > record.HeaderSize {
			out[g.ID] = n
		}
	}
	return out
}

// publish does steps D and E.
func (st *settling) publish(root *merkle.Root) error {
	s, v := st.s, st.v
	id := root.Hash()
	dirs := s.objectLogLengths() // without s.catalog.mu: a segment's lock may be held over I/O
	var logical int64
	return s.catalog.update(st.ctx, func() ([]refs.Record, error) {
		maps.DeleteFunc(dirs, func(g uint32, n int64) bool { return n <= s.catalog.refs.ObjectLogs[g] })
		if s.catalog.refs.ByID[v.ref.ID] == nil {
			return nil, fmt.Errorf("volume %s: %w", v.ref.Name, ErrNotFound)
		}
		if st.pins != nil {
			if err := st.mayPin(st.pins.chunks...); err != nil { // one may have come since
				return nil, err
			}
		}
		logical = st.account()
		recs := []refs.Record{{
			Op: refs.OpHead, ID: v.ref.ID, Gen: st.l.gen, Root: id.String(), Logical: logical, ObjectLogs: dirs, Time: time.Now().UTC().Truncate(time.Second),
		}}
		for _, sn := range v.ref.Unsettled {
			if sn.Gen == st.l.gen {
				recs = append(recs, refs.Record{Op: refs.OpSnapshot, ID: v.ref.ID, Name: sn.Name, Gen: sn.Gen, Root: id.String(), Logical: logical})
			}
		}
		return recs, nil
	}, func() {
		failpoint.Here(failpoint.SettleRefs)
		for w := range s.catalog.views {
			if w.v == v && w.gen == st.l.gen {
				w.settled(newBase(s, *root))
			}
		}
		st.install(root, id, logical)
		failpoint.Here(failpoint.SettleBase)
	})
}

// install does step E: the root becomes the volume's base, and the layer goes. A commit that is under way may still use
// its journal, which stays open until reclaiming.
// REQUIRES: catalog.mu is held.
func (st *settling) install(root *merkle.Root, id merkle.Hash, logical int64) {
	s, v := st.s, st.v
	v.mu.Lock()
	defer v.mu.Unlock()
	v.base.root, v.base.id = *root, id
	v.base.version++
	v.baseGen, v.baseData = st.l.gen, logical
	for _, t := range st.erased.trees {
		v.base.forget(t)
	}
	for i, l := range st.leaves {
		v.base.setLeaf(i, l)
	}
	for _, n := range v.namings {
		if n.gen == st.l.gen {
			n.settle(id, logical)
		}
	}
	v.layers = append(v.layers[:0:0], v.layers[1:]...)
	v.tail -= st.l.bytes
	s.reclaimer.expect() // before its bytes are off the account: a write must not find that there is nothing to wait for
	v.settleFails.Store(0)
	v.unstick()
	s.space.settled(st.l)
	if k := v.pins.Load(); k != nil && st.pins == nil && st.l.gen >= k.gen {
		v.pins.Store(nil)
	}
	v.room.fire()
}
