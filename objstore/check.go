package objstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
)

// Check reads everything that a store has checksums and hashes for, beside the I/O that goes on, and says of each
// damage which parts of which images it concerns:
//
//	records   both superblocks, both refs logs, the journals, each segment's header and footer or object log
//	objects   every chunk, tree node and root in the segments, against its hash, past the page cache
//	trees     from every root that refs name: is each node there, and each chunk
//	tails     what has not settled has no hash; it is read, to see whether it can be
//
// It changes nothing on disk. A location whose bytes are wrong is quarantined, see package object: it is neither
// pointed to nor read until a Check finds it right.

// Damage is one thing that is not what it should be.
type Damage struct {
	File   string `json:"file"`   // relative to the store
	Offset int64  `json:"offset"` // bytes
	Object string `json:"object"`
	Error  string `json:"error"`
	// Mended: it was found when the store was opened, and made good.
	Mended  bool       `json:"mended"`
	Affects []Affected `json:"affects"` // empty: nothing that a volume or snapshot needs
}

// Affected is an image that a damage concerns, and where.
type Affected struct {
	Volume   string  `json:"volume"`
	Snapshot string  `json:"snapshot,omitempty"` // empty: the volume itself
	Ranges   []Range `json:"ranges"`             // in order; those of a whole image if nobody can say
}

// CheckReport is what Check has looked at, and what it has found.
type CheckReport struct {
	Segments int      `json:"segments"`
	Objects  int64    `json:"objects"`
	Bytes    int64    `json:"bytes"` // of objects that were read and hashed
	Images   int      `json:"images"`
	Tail     int64    `json:"tail"` // bytes that have not settled, and were only read
	Damage   []Damage `json:"damage"`
	Strays   []string `json:"strays,omitempty"` // files among the store's that are none of them, and were left alone
}

// Damaged counts what was found and not mended.
func (r *CheckReport) Damaged() int {
	n := 0
	for i := range r.Damage {
		if !r.Damage[i].Mended {
			n++
		}
	}
	return n
}

// CheckProgress says how far a Check is.
type CheckProgress struct {
	Done  int64 `json:"done"`  // bytes
	Total int64 `json:"total"` // bytes, about
}

// checker is a Check under way.
type checker struct {
	ctx      context.Context //nolint:containedctx // a check is one call, spread over methods
	s        *Store
	report   CheckReport
	progress func(CheckProgress)
	total    int64

	objects map[objectID]int     // damaged objects without a good copy: their index in report.Damage
	missing map[merkle.Hash]bool // chunks that the index does not find
	lost    int                  // the damage that stands for chunks that no segment has; -1: none
	clean   map[merkle.Hash]bool // nodes: is all below them good
}

type objectID struct {
	hash merkle.Hash
	kind merkle.Kind
}

// Check looks for damage. progress, which may be nil, is called now and then. An error means that the check could not
// be done; what it has found is in the report. Close ends it.
func (s *Store) Check(ctx context.Context, progress func(CheckProgress)) (*CheckReport, error) {
	if err := s.checking.LockContext(ctx); err != nil { // one at a time; Close waits
		return &CheckReport{Damage: []Damage{}}, fmt.Errorf("check: %w", err)
	}
	defer s.checking.Unlock()
	if s.ctx.Err() != nil {
		return nil, fmt.Errorf("check: %w", ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	c := &checker{
		ctx: ctx, s: s, progress: progress, lost: -1,
		objects: map[objectID]int{}, missing: map[merkle.Hash]bool{}, clean: map[merkle.Hash]bool{},
	}
	c.report.Damage = []Damage{}
	c.total = s.chunkBytes.Load() + s.nodeBytes.Load()
	c.known()
	c.superblocks()
	steps := []func() error{c.refs, c.journals, c.segments, c.trees, c.tails}
	for _, step := range steps {
		if err := step(); err != nil {
			return &c.report, fmt.Errorf("check: %w", err)
		}
	}
	return &c.report, nil
}

// found notes a damage and returns its index in the report.
func (c *checker) found(err error, affects ...Affected) int {
	d := Damage{File: ".", Object: "store", Error: err.Error(), Affects: append([]Affected{}, affects...)}
	var ce *CorruptError
	if errors.As(err, &ce) {
		d.File, d.Offset, d.Object, d.Error = ce.File, ce.Offset, ce.Object, fmt.Sprint(ce.Err)
	}
	c.report.Damage = append(c.report.Damage, d)
	return len(c.report.Damage) - 1
}

// known takes over what opening has found.
func (c *checker) known() {
	s := c.s
	s.reportMu.Lock()
	repairs, losses := slices.Clone(s.repairs), slices.Clone(s.losses)
	c.report.Strays = slices.Clone(s.strays)
	s.reportMu.Unlock()
	for _, d := range repairs {
		c.report.Damage[c.found(d)].Mended = true
	}
	for _, d := range losses {
		c.found(d)
	}
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	for _, ref := range s.catalog.refs.Sorted() {
		v := s.catalog.volumes[ref.ID]
		d := v.damage.Load()
		if d == nil {
			continue
		}
		ranges := d.ranges
		if d.root || d.unknown > 0 || len(ranges) == 0 {
			ranges = []Range{{0, ref.Size}}
		}
		affects := []Affected{{Volume: ref.Name, Ranges: ranges}}
		for _, sn := range d.snaps {
			affects = append(affects, Affected{Volume: ref.Name, Snapshot: sn, Ranges: []Range{{0, ref.Size}}})
		}
		c.found(d.err, affects...)
	}
}

func (c *checker) superblocks() {
	for _, name := range []string{refs.SuperblockFile, refs.SuperblockCopy} {
		if _, err := refs.ReadSuperblockFile(c.s.fs, name); err != nil {
			c.found(disk.AsCorrupt(err, name, 0, "superblock"))
		}
	}
}

// refs reads both logs, each for itself, up to where the store has written them.
func (c *checker) refs() error {
	s := c.s
	s.catalog.logMu.Lock()
	defer s.catalog.logMu.Unlock()
	l := s.catalog.log
	for i := range l.Copies() {
		c.there(l.CopyName(i), "log", always)
		if err := l.VerifyCopy(i); err != nil {
			c.found(err)
		}
	}
	if l.Copies() < 2 {
		c.found(&CorruptError{File: l.CopyName(0), Object: "log", Err: errors.New("there is no second copy of it")})
	}
	return nil
}

func always() bool { return true }

// there looks whether a file that the store has open still has its name: without, it is gone when the store is closed.
func (c *checker) there(name, object string, held func() bool) {
	if _, err := c.s.fs.Used(name); errors.Is(err, os.ErrNotExist) && held() {
		c.found(&CorruptError{File: name, Object: object, Err: errors.New("it is not there; the store has it open, and reads it until it is closed")})
	}
}

// journals reads those of the layers that have not settled.
func (c *checker) journals() error {
	type live struct {
		*journal.File
		gen   uint64
		count int
	}
	for _, v := range c.volumes() {
		var all []live
		v.mu.Lock()
		for _, l := range v.layers {
			if l.journal != nil {
				all = append(all, live{l.journal, l.gen, l.journal.Count()})
			}
		}
		v.mu.Unlock()
		for _, j := range all {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			c.journal(v, j.File, j.gen, j.count)
		}
	}
	return nil
}

// journal reads one that may be written meanwhile, up to the records that it had before.
func (c *checker) journal(v *volume, j *journal.File, gen uint64, count int) {
	rp, err := j.Reread(c.s.fs)
	switch {
	case errors.Is(err, os.ErrNotExist) && !v.has(gen):
		return // it has settled meanwhile
	case errors.Is(err, os.ErrNotExist):
	case rp != nil && rp.Whole >= count:
		err = nil // what is behind may be half written
		if rp.BadHeader != nil {
			err = rp.BadHeader
		}
	case err == nil:
		err = &CorruptError{
			File: j.Name(), Offset: journal.Offset(rp.Whole), Object: "journal record",
			Err: fmt.Errorf("%d records can be read of %d", rp.Whole, count),
		}
	}
	if err == nil {
		return
	}
	a := Affected{Volume: v.ref.Name, Ranges: []Range{{0, v.ref.Size}}}
	if rp != nil {
		if ranges, unknown := c.s.readBehind(v.ref.ID, j.Name(), rp.Whole, count); unknown == 0 {
			a.Ranges = mergeRanges(ranges, v.ref.Size)
		}
	}
	c.found(disk.AsCorrupt(err, j.Name(), 0, "journal"), a)
}

// has reports a generation that has not settled.
func (v *volume) has(gen uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.layers, func(l *layer) bool { return l.gen == gen })
}

// volumes in order of name, without those that are refused.
func (c *checker) volumes() []*volume {
	c.s.catalog.mu.Lock()
	defer c.s.catalog.mu.Unlock()
	var out []*volume
	for _, ref := range c.s.catalog.refs.Sorted() {
		if v := c.s.catalog.volumes[ref.ID]; v.damage.Load() == nil {
			out = append(out, v)
		}
	}
	return out
}

// segments looks at the records of all segments and hashes every object.
func (c *checker) segments() error {
	all := c.s.segments.All()
	c.report.Segments = len(all)
	bad := map[objectID]int{}
	for _, g := range all {
		c.record(g)
		objs, err := g.Objects()
		if err != nil {
			continue // record has said so
		}
		if err := c.hash(g, objs, bad); err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	// One that is good somewhere else is not needed here.
	for _, g := range all {
		objs, err := g.Objects()
		if err != nil {
			continue
		}
		for _, o := range objs {
			if _, ok := bad[objectID{o.Hash, o.Kind}]; ok && !c.s.objects.Quarantine.Suspect(segment.At(g.ID, o.Block)) {
				delete(bad, objectID{o.Hash, o.Kind})
			}
		}
	}
	c.objects = bad
	return nil
}

// record looks at a segment's header, and its footer or object log.
func (c *checker) record(g *segment.File) {
	known := c.named(segment.Name(g.ID)) // as opening found it
	there := func(file string) {
		if file == segment.Name(g.ID) {
			c.there(file, "segment", func() bool { return c.s.segments.Get(g.ID) == g }) // else it was retired meanwhile
		} else {
			c.there(file, "log", always)
		}
	}
	_ = g.Check(c.s.sb.ID, there, func(err error) { // an error: it was retired meanwhile
		if bad := (*CorruptError)(nil); known && errors.As(err, &bad) && bad.Object == "segment footer" {
			return
		}
		c.found(err)
	})
}

// named reports a file that opening has found damaged, and could not mend.
func (c *checker) named(file string) bool {
	return slices.ContainsFunc(c.report.Damage, func(d Damage) bool { return d.File == file && !d.Mended })
}

// hash reads the objects of a segment, and notes those that are not what their hash says.
func (c *checker) hash(g *segment.File, objs []segment.Object, bad map[objectID]int) error {
	buf := disk.AlignedBuffer(disk.MaxChunkSize)
	for _, o := range objs {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b := buf[:o.Length]
		pl := segment.At(g.ID, o.Block)
		err := disk.ReadAligned(g.Data, b, pl.Offset())
		if err == nil && merkle.Sum(o.Kind, b) != o.Hash {
			err = errOtherBytes
		}
		c.report.Objects++
		c.report.Bytes += int64(o.Length)
		if c.progress != nil && c.report.Objects%256 == 0 {
			c.progress(CheckProgress{c.report.Bytes, max(c.total, c.report.Bytes)})
		}
		if err == nil {
			c.s.objects.Verify(pl)
			continue
		}
		err = &CorruptError{File: segment.Name(g.ID), Offset: pl.Offset(), Object: fmt.Sprintf("%v %v", o.Kind, o.Hash), Err: err}
		bad[objectID{o.Hash, o.Kind}] = c.found(err)
		c.s.objects.Damaged(pl, err)
	}
	return nil
}

// image is a root that refs name.
type image struct {
	volume, snap string
	root         merkle.Hash
	size         int64
}

func (c *checker) images() []image {
	s := c.s
	s.catalog.mu.Lock()
	defer s.catalog.mu.Unlock()
	var out []image
	for _, ref := range s.catalog.refs.Sorted() {
		v := s.catalog.volumes[ref.ID]
		v.mu.Lock()
		id := v.base.id
		v.mu.Unlock()
		if d := v.damage.Load(); d == nil || !d.root {
			out = append(out, image{ref.Name, "", id, ref.Size})
		}
		for _, sn := range ref.Order {
			if sn.Settled {
				out = append(out, image{ref.Name, sn.Name, sn.Root, ref.Size})
			} else if v.damage.Load() == nil { // it is read through the volume
				out = append(out, image{ref.Name, sn.Name, id, ref.Size})
			}
		}
	}
	return out
}

// trees walks every tree once, and those with damage once more for each image, to say where it is.
func (c *checker) trees() error {
	images := c.images()
	c.report.Images = len(images)
	roots := make([]*merkle.Root, len(images))
	for i, im := range images {
		r, err := c.s.objects.Root(im.root, im.size)
		if err != nil && !disk.Damaged(err) {
			return err
		}
		if err != nil {
			c.found(disk.AsCorrupt(err, segment.Dir, 0, "root "+im.root.String()), Affected{im.volume, im.snap, []Range{{0, im.size}}})
			continue
		}
		roots[i] = r
		if err := c.walk(r.Top, r.Depth); err != nil {
			return err
		}
	}
	if err := c.seek(); err != nil {
		return err
	}
	for i, im := range images {
		if r := roots[i]; r != nil {
			if err := c.locate(im, r, r.Top, r.Depth, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk looks at a subtree that was not looked at yet: notes the nodes that are lost, and the chunks that the index
// does not find.
func (c *checker) walk(h merkle.Hash, level int) error {
	if _, seen := c.clean[h]; h.IsZero() || seen {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	n, err := c.s.objects.FreshNode(h, level)
	if err != nil && !disk.Damaged(err) {
		return err
	}
	if err != nil {
		c.clean[h] = false
		id := objectID{h, merkle.NodeKind(level)}
		if _, known := c.objects[id]; !known {
			c.objects[id] = c.found(disk.AsCorrupt(err, segment.Dir, 0, fmt.Sprintf("%v %v", id.kind, h)))
		}
		return nil
	}
	clean := true
	for _, child := range n {
		switch {
		case child.IsZero():
		case level > 1:
			if err := c.walk(child, level-1); err != nil {
				return err
			}
			clean = clean && c.clean[child]
		default:
			if _, bad := c.objects[objectID{child, merkle.KindChunk}]; bad {
				clean = false
			} else if _, ok := c.s.objects.Lookup(&child, merkle.KindChunk); !ok {
				c.missing[child] = true
				clean = false
			}
		}
	}
	c.clean[h] = clean
	return nil
}

// seek looks for the chunks that the index does not find, in the records and, where these are damaged, by content.
func (c *checker) seek() error {
	if len(c.missing) == 0 {
		return nil
	}
	for _, g := range c.s.segments.All() {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		objs, err := g.Objects()
		if err != nil {
			continue
		}
		for _, o := range objs {
			if o.Kind == merkle.KindChunk && !c.s.objects.Quarantine.Suspect(segment.At(g.ID, o.Block)) {
				delete(c.missing, o.Hash)
			}
		}
	}
	for _, g := range c.s.segments.Damaged() {
		for h := range c.missing {
			if _, _, ok := c.s.objects.Salvage(g, &h, merkle.KindChunk); ok {
				delete(c.missing, h)
			}
		}
	}
	if n := len(c.missing); n > 0 {
		c.lost = c.found(&CorruptError{File: segment.Dir, Object: fmt.Sprintf("%d chunks", n), Err: errors.New("no segment has them")})
	}
	return nil
}

// locate adds the range of node number i of a level to each damage below it.
func (c *checker) locate(im image, root *merkle.Root, h merkle.Hash, level int, i int64) error {
	if h.IsZero() || c.clean[h] {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	span := merkle.Span(level) * int64(root.ChunkSize)
	if at, bad := c.objects[objectID{h, merkle.NodeKind(level)}]; bad {
		c.affect(at, im, i*span, span)
		return nil
	}
	n, err := c.s.objects.Node(h, level)
	if err != nil {
		return err
	}
	for j, child := range n {
		if level > 1 {
			if err := c.locate(im, root, child, level-1, i*merkle.FanOut+int64(j)); err != nil {
				return err
			}
			continue
		}
		off := i*span + int64(j)*int64(root.ChunkSize)
		if at, bad := c.objects[objectID{child, merkle.KindChunk}]; bad {
			c.affect(at, im, off, int64(root.ChunkSize))
		} else if c.missing[child] {
			c.affect(c.lost, im, off, int64(root.ChunkSize))
		}
	}
	return nil
}

func (c *checker) affect(damage int, im image, off, length int64) {
	d := &c.report.Damage[damage]
	length = min(length, im.size-off)
	n := len(d.Affects)
	if n == 0 || d.Affects[n-1].Volume != im.volume || d.Affects[n-1].Snapshot != im.snap {
		d.Affects = append(d.Affects, Affected{Volume: im.volume, Snapshot: im.snap})
		n++
	}
	a := &d.Affects[n-1]
	if m := len(a.Ranges); m > 0 && a.Ranges[m-1].Off+a.Ranges[m-1].Len == off {
		a.Ranges[m-1].Len += length
		return
	}
	a.Ranges = append(a.Ranges, Range{off, length})
}

// tails reads what has not settled.
func (c *checker) tails() error {
	for _, v := range c.volumes() {
		var all []journal.Span
		v.mu.Lock()
		for _, l := range v.layers {
			for e := range l.extents.All() {
				if !e.Hole() {
					all = append(all, journal.Span{From: e.Start(), To: e.End})
				}
			}
		}
		v.mu.Unlock()
		for _, r := range mergeRanges(all, v.ref.Size) {
			for off := r.Off; off < r.Off+r.Len; off += MaxRequest / 4 {
				if err := c.tail(v, off, int(min(MaxRequest/4, r.Off+r.Len-off))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tail reads the parts of a range that belong to no tree.
func (c *checker) tail(v *volume, off int64, length int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var p Plan
	if err := planLoaded(c.ctx, v, off, length, &p); err != nil {
		if disk.Damaged(err) || errors.Is(err, ErrClosed) {
			return nil // the trees have said so; or it was deleted
		}
		return err
	}
	defer v.Release(&p)
	buf := disk.AlignedBuffer(length)
	for i := range p.Pieces {
		e := &p.Pieces[i]
		if e.Hole || e.settled {
			continue
		}
		c.report.Tail += int64(e.Len)
		if err := disk.ReadAligned(e.seg.Data, buf[e.BufOff:e.BufOff+e.Len], e.FileOff); err != nil {
			c.found(&CorruptError{File: segment.Name(e.seg.ID), Offset: e.FileOff, Object: "data that has not settled", Err: err},
				Affected{Volume: v.ref.Name, Ranges: []Range{{off + int64(e.BufOff), int64(e.Len)}}})
		}
	}
	return nil
}
