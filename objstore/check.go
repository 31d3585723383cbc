package objstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/maintenance"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/object"
	"varve/objstore/internal/refs"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// Check reads everything that a store has checksums and hashes for, beside the I/O that continues,
// and reports for each damage which parts of which images it affects:
//
//	records   both superblocks, both refs logs, the journals, each segment's header and footer or object log
//	objects   every chunk, tree node and root in the segments, against its hash, past the page cache
//	trees     from every root that refs name: each node and each chunk must be there
//	tails     what has not settled has no hash; it is read, to see whether it can be
//
// Check changes nothing on disk but the record of what was verified (type upkeep). A location whose
// bytes are wrong is quarantined, see package object: settling does not refer to it, and reads
// avoid it, until a Check finds it right.
//
// CheckStore does the same for a part of the segments. It always reads the records that are small:
// superblocks, refs, journals. Trees are walked by a check of everything, and by one that has found
// damage, to say which images that affects.

// Damage is a file, a record or an object that is damaged.
type Damage struct {
	File   string `json:"file"`   // relative to the store
	Offset int64  `json:"offset"` // bytes
	Object string `json:"object"`
	Error  string `json:"error"`
	// Repaired: the damage was found when the store was opened, and repaired.
	Repaired bool       `json:"mended"`
	Affects  []Affected `json:"affects"` // empty: nothing that a volume or snapshot needs
}

// Affected is an image that a damage affects, and the ranges in it.
type Affected struct {
	Volume   string  `json:"volume"`
	Snapshot string  `json:"snapshot,omitempty"` // empty: the volume itself
	Ranges   []Range `json:"ranges"`             // in order; the whole image if the ranges are not known
}

// CheckReport says what a check read, and what it found.
type CheckReport struct {
	Segments int      `json:"segments"`
	Skipped  int      `json:"skipped_segments"` // of Segments, those that were not to be read
	Resumed  *Resumed `json:"resumed,omitempty"`
	Seconds  float64  `json:"seconds"`
	Objects  int64    `json:"objects"`
	Bytes    int64    `json:"bytes"` // of objects that were read and hashed
	Images   int      `json:"images"`
	Tail     int64    `json:"tail"` // bytes that have not settled, and were only read
	Damage   []Damage `json:"damage"`
	Strays   []string `json:"strays,omitempty"` // foreign files among the store's, left alone
}

// Resumed describes the interrupted check that a check continues.
type Resumed struct {
	Begun time.Time `json:"begun"`
	Bytes int64     `json:"bytes"` // of objects that were read and hashed before
}

// Damaged returns how many damages were found and not repaired.
func (r *CheckReport) Damaged() int {
	n := 0
	for i := range r.Damage {
		if !r.Damage[i].Repaired {
			n++
		}
	}
	return n
}

// CheckProgress is how far a check is.
type CheckProgress struct {
	Done  int64 `json:"done"`  // bytes
	Total int64 `json:"total"` // bytes, about
}

// checker is a check under way.
type checker struct {
	deps    checkDeps
	ctx     context.Context //nolint:containedctx // a check is one call, spread over methods
	options CheckOptions
	scope   scope
	run     *checkRun
	rate    throttle
	pacer   pacer
	report  CheckReport
	total   int64     // bytes of all objects when the check began
	told    time.Time // when progress was reported last

	objects map[objectID]int     // damaged objects without a good copy: their index in report.Damage
	missing map[merkle.Hash]bool // chunks that the index does not have
	lost    int                  // the damage that stands for chunks that no segment has; -1: none
	clean   map[merkle.Hash]bool // by node: all below it is good
}

// checkDeps is what a check needs of the store.
type checkDeps struct {
	fs       vfs.FS
	store    uuid.UUID
	catalog  *catalog
	book     *damageBook // damage that opening has found
	segments *segment.Table
	objects  *object.Reader
	lookups  *segment.Pins // held while a segment is read that may be retired
	upkeep   *upkeep
	hold     func(all []rootOf) (release func()) // keeps roots from being collected; called with the catalog's mu held
}

type objectID struct {
	hash merkle.Hash
	kind merkle.Kind
}

// newChecker returns a check of a store with total bytes of objects.
func newChecker(ctx context.Context, deps checkDeps, o CheckOptions, sc scope, total int64) *checker {
	c := &checker{
		ctx: ctx, deps: deps, options: o, scope: sc, rate: throttle{rate: o.Rate}, lost: -1,
		run:   &checkRun{begun: deps.upkeep.now().UTC().Truncate(time.Second), scheduled: o.Scheduled},
		total: total,

		objects: map[objectID]int{}, missing: map[merkle.Hash]bool{}, clean: map[merkle.Hash]bool{},
	}
	c.report.Damage = []Damage{}
	c.report.Skipped = sc.skipped
	if p := sc.resumed; p != nil {
		c.report.Resumed = &Resumed{Begun: p.Begun, Bytes: p.Bytes}
		c.run.begun = p.Begun
	}
	c.tell()
	return c
}

// Check looks for damage in the whole store. progress, which may be nil, is called now and then. An
// error means that the check could not be completed; the report has what it found before. Close
// ends a Check.
func (s *Store) Check(ctx context.Context, progress func(CheckProgress)) (*CheckReport, error) {
	return s.CheckStore(ctx, CheckOptions{Progress: progress})
}

// check runs the steps of a check.
func (c *checker) check() error {
	c.known()
	c.superblocks()
	c.maintenance()
	steps := []func() error{c.refs, c.journals, c.segments}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	if c.options.whole() || len(c.objects) > 0 {
		if err := c.trees(); err != nil {
			return err
		}
	}
	if c.options.whole() {
		return c.tails()
	}
	return nil
}

// found adds a damage to the report and returns its index there.
func (c *checker) found(err error, affects ...Affected) int {
	d := Damage{File: ".", Object: "store", Error: err.Error(), Affects: append([]Affected{}, affects...)}
	var ce *CorruptError
	if errors.As(err, &ce) {
		d.File, d.Offset, d.Object, d.Error = ce.File, ce.Offset, ce.Object, fmt.Sprint(ce.Err)
	}
	c.report.Damage = append(c.report.Damage, d)
	return len(c.report.Damage) - 1
}

// known adds to the report what opening has found.
func (c *checker) known() {
	b := c.deps.book
	b.reportMu.Lock()
	repairs, losses := slices.Clone(b.repairs), slices.Clone(b.losses)
	c.report.Strays = slices.Clone(b.strays)
	b.reportMu.Unlock()
	for _, d := range repairs {
		c.report.Damage[c.found(d)].Repaired = true
	}
	for _, d := range losses {
		c.found(d)
	}
	for _, v := range c.deps.catalog.sorted() {
		d := v.damage.Load()
		if d == nil {
			continue
		}
		ranges := d.ranges
		if d.root || d.unknown > 0 || len(ranges) == 0 {
			ranges = []Range{{0, v.Size()}}
		}
		affects := []Affected{{Volume: v.Name(), Ranges: ranges}}
		for _, sn := range d.snaps {
			affects = append(affects, Affected{Volume: v.Name(), Snapshot: sn, Ranges: []Range{{0, v.Size()}}})
		}
		c.found(d.err, affects...)
	}
}

func (c *checker) superblocks() {
	for _, name := range []string{refs.SuperblockFile, refs.SuperblockCopy} {
		if _, err := refs.ReadSuperblockFile(c.deps.fs, name); err != nil {
			c.found(disk.AsCorrupt(err, name, 0, "superblock"))
		}
	}
}

// maintenance reads the record of what was verified, and its copy.
func (c *checker) maintenance() {
	u := c.deps.upkeep
	u.writeMu.Lock()
	defer u.writeMu.Unlock()
	for _, d := range maintenance.Verify(u.fs, u.store) {
		c.found(d)
	}
}

// refs reads both copies of the refs log, up to where the store has written them.
func (c *checker) refs() error {
	err := c.deps.catalog.readLog(c.ctx, func(l *refs.Log) {
		for i := range l.Copies() {
			c.there(l.CopyName(i), "log", always)
			err := l.VerifyCopy(c.ctx, i)
			if c.ctx.Err() != nil {
				return
			}
			if err != nil {
				c.found(err)
			}
		}
		if l.Copies() < 2 {
			c.found(&CorruptError{File: l.CopyName(0), Object: "log", Err: errors.New("there is no second copy of it")})
		}
	})
	return cmp.Or(err, c.ctx.Err())
}

func always() bool { return true }

// there reports a file that the store has open and that has lost its name: closing the store would
// lose the file. held is asked whether the store still has it.
func (c *checker) there(name, object string, held func() bool) {
	if _, err := c.deps.fs.Used(name); errors.Is(err, os.ErrNotExist) && held() {
		c.found(&CorruptError{File: name, Object: object, Err: errors.New("the file is missing; the store has it open, and reads it until it is closed")})
	}
}

// volumes returns the volumes in order of name, without those that are refused.
func (c *checker) volumes() []*volume {
	return slices.DeleteFunc(c.deps.catalog.sorted(), func(v *volume) bool { return v.damage.Load() != nil })
}
