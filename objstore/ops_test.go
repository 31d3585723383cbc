package objstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"varve/objstore/internal/disk"
)

// The operations that a world does. Each notes in the model what was answered, and what may be.

type operation struct {
	name   string
	weight int
	do     func(w *world)
}

var operations = []operation{
	{"write", 30, (*world).opWrite},
	{"reserve", 12, (*world).opReserve},
	{"zero", 8, (*world).opZero},
	{"flush", 8, (*world).opFlush},
	{"read", 12, (*world).opRead},
	{"plan", 6, (*world).opPlan},
	{"extents", 3, (*world).opExtents},
	{"concurrent", 4, (*world).opConcurrent},
	{"snapshot", 5, (*world).opSnapshot},
	{"wait", 3, (*world).opWait},
	{"delete snapshot", 3, (*world).opDeleteSnapshot},
	{"settle", 4, (*world).opSettle},
	{"create", 2, (*world).opCreate},
	{"delete", 1, (*world).opDelete},
	{"close", 2, (*world).opCloseVolume},
	{"rest", 3, (*world).opRest},
	{"reopen", 2, (*world).reopen},
	{"roots", 1, (*world).opRoots},
	{"would free", 2, (*world).opWouldFree},
	{"uses", 2, (*world).opUses},
	{"hold", 3, (*world).opHold},
	{"collect", 4, (*world).opCollect},
}

// rareOperations are those of opRare.
var rareOperations = []operation{
	{"scratch", 3, (*world).opScratch},
	{"clone", 4, (*world).opClone},
	{"rollback", 4, (*world).opRollback},
	{"resize", 5, (*world).opResize},
	{"rename", 4, (*world).opRename},
	{"verify", 2, (*world).opVerify},
	{"limits", 2, (*world).opLimits},
	{"evacuate", 6, (*world).opEvacuate},
	{"quiesce", 1, (*world).opQuiesce},
	{"passing", 2, (*world).opPassing},
	{"give up", 3, (*world).opGiveUp},
	{"slow syncs", 2, (*world).opSlowSyncs},
	{"break index", 1, (*world).opBreakIndex},
}

func init() { operations = append(operations, operation{"rare", 6, (*world).opRare}) }

// opRare does one of the operations that are for the store as a whole.
func (w *world) opRare() { w.oneOf(rareOperations) }

// step does one operation.
func (w *world) step() { w.oneOf(operations) }

func (w *world) oneOf(list []operation) {
	total := 0
	for _, op := range list {
		total += op.weight
	}
	n := w.pick(total, "operation")
	for _, op := range list {
		if n -= op.weight; n < 0 {
			w.counts[op.name]++
			if !slices.Contains(underPlans, op.name) {
				w.readAllHeld()
			}
			defer watch(op.name)()
			defer w.unstick()()
			op.do(w)
			return
		}
	}
}

func ctxTimeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 150*time.Second)
}

func (w *world) opWrite() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	off, n := w.extent(v, false)
	p := w.data(off, n)
	first, sectors := v.overlay(off, p)
	done, err := vol.WriteAt(p, off)
	w.note("write %s %d+%d: %v", v.name, off, n, err)
	w.wrote(v, vol, first, sectors, err, "write")
	if err == nil && done != n {
		w.failf("write of %d bytes gave %d", n, done)
	}
}

// wrote notes how a change of sectors came out.
func (w *world) wrote(v *modelVolume, vol *Volume, first int, sectors []string, err error, what string) {
	if w.answered(err, what) {
		v.set(first, sectors)
		return
	}
	v.maybe(first, sectors)
	if !w.mem.WasCut() {
		w.readBack(v, vol, first, len(sectors))
	}
}

// readBack finds out what a failed write left.
func (w *world) readBack(v *modelVolume, vol *Volume, first, n int) {
	got := make([]byte, n*SectorSize)
	if _, err := vol.ReadAt(got, int64(first)*SectorSize); err != nil {
		if w.mem.WasCut() || w.hook.Load() != nil {
			return
		}
		w.failf("read back: %v", err)
	}
	if err := v.check(first, got, false); err != nil {
		w.failf("after a failed write: %v", err)
	}
}

type reservation struct {
	w   Write
	p   []byte
	off int64
}

// opReserve has several writes under way at once, and commits or aborts them in any order.
func (w *world) opReserve() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	var open []*reservation
	for range 1 + w.pick(4, "reservations") {
		off, n := w.extent(v, true)
		r := &reservation{p: w.data(off, n), off: off}
		err := vol.retry(context.Background(), off, int64(n), false, func() error { return queueVolume{vol}.Reserve(off, n, &r.w) })
		if !w.answered(err, "reserve") {
			w.note("reserve %s %d+%d: %v", v.name, off, n, err)
			break
		}
		open = append(open, r)
	}
	for len(open) > 0 {
		i := w.pick(len(open), "which")
		r := open[i]
		open = append(open[:i], open[i+1:]...)
		if w.pick(6, "abort") == 0 {
			queueVolume{vol}.Abort(&r.w)
			w.note("abort %s %d+%d", v.name, r.off, len(r.p))
			continue
		}
		if err := disk.WriteAligned(r.w.seg.Data, r.p, r.w.FileOff); err != nil {
			vol.Abort(&r.w)
			w.note("data of %s %d+%d: %v", v.name, r.off, len(r.p), err)
			if !w.mem.WasCut() && w.hook.Load() == nil && w.space == 0 {
				w.failf("write to a reserved place: %v", err)
			}
			continue
		}
		first, sectors := v.overlay(r.off, r.p)
		err := queueVolume{vol}.Commit(&r.w)
		w.note("commit %s %d+%d: %v", v.name, r.off, len(r.p), err)
		w.wrote(v, vol, first, sectors, err, "commit")
	}
}

func (w *world) opZero() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	off, n := w.extent(v, true)
	if w.pick(10, "all") == 0 {
		off, n = 0, int(v.size)
	}
	err := queueVolume{vol}.zero(off, int64(n))
	w.note("zero %s %d+%d: %v", v.name, off, n, err)
	w.wrote(v, vol, int(off/SectorSize), make([]string, n/SectorSize), err, "zero")
}

func (w *world) opFlush() {
	v := w.anyVolume()
	if v == nil {
		return
	}
	if vol := w.volume(v.name); vol != nil {
		err := queueVolume{vol}.flush()
		w.note("flush %s: %v", v.name, err)
		if w.answered(err, "flush") {
			v.flushed()
		}
	}
}

func (w *world) opRead() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	off, n := w.extent(v, false)
	got := make([]byte, n)
	_, err := vol.ReadAt(got, off)
	w.note("read %s %d+%d: %v", v.name, off, n, err)
	if !w.answered(err, "read") {
		return
	}
	whole := make([]byte, (n+2*SectorSize)/SectorSize*SectorSize)
	first := int(off / SectorSize)
	whole = whole[:min(int64(len(whole)), v.size-int64(first)*SectorSize)]
	if err := (queueVolume{vol}).read(whole, int64(first)*SectorSize); !w.answered(err, "read") {
		return
	}
	if skip := int(off % SectorSize); string(whole[skip:skip+n]) != string(got) {
		w.failf("an unaligned read differs from an aligned one")
	}
	if err := v.check(first, whole, false); err != nil {
		w.failf("%v", err)
	}
}

// opPlan reads by a plan that is held while the store settles.
func (w *world) opPlan() {
	v := w.anyVolume()
	if v == nil || len(v.unsure) > 0 {
		return
	}
	vol := w.volume(v.name)
	if vol == nil {
		return
	}
	off, n := w.extent(v, true)
	var p Plan
	if err := planLoaded(context.Background(), vol, off, n, &p); !w.answered(err, "plan") {
		return
	}
	at := 0
	for _, c := range p.Pieces {
		if c.BufOff != at || c.Len <= 0 || c.Len%SectorSize != 0 {
			w.failf("plan of %d+%d: piece %+v at %d", off, n, c, at)
		}
		at += c.Len
	}
	if at != n {
		w.failf("plan of %d bytes covers %d", n, at)
	}
	want := append([]string(nil), v.cur[off/SectorSize:(int(off)+n)/SectorSize]...)
	var settled chan error
	if w.pick(2, "settle meanwhile") == 0 {
		// What was planned lies there still, whatever is written and settled meanwhile.
		data := w.data(off, n)
		first, sectors := v.overlay(off, data)
		_, err := vol.WriteAt(data, off)
		w.note("overwrite %s %d+%d under a plan: %v", v.name, off, n, err)
		w.wrote(v, vol, first, sectors, err, "write")
		settled = make(chan error, 1)
		go func() {
			ctx, cancel := ctxTimeout()
			defer cancel()
			settled <- w.s.Settle(ctx)
		}()
		time.Sleep(time.Duration(w.pick(3, "milliseconds")) * time.Millisecond)
	}
	got := make([]byte, n)
	err := readPieces(&p, got)
	vol.Release(&p)
	if settled != nil {
		if err := <-settled; err != nil && !w.mem.WasCut() && !w.tolerates(err) {
			w.failf("settle under a plan: %v", err)
		}
	}
	w.note("plan %s %d+%d: %v", v.name, off, n, err)
	if !w.answered(err, "read by plan") {
		return
	}
	for i := range want {
		if s := sectorOf(got[i*SectorSize : (i+1)*SectorSize]); s != want[i] {
			w.failf("plan of %s: sector %d is %s, want %s", v.name, int(off/SectorSize)+i, short(s), short(want[i]))
		}
	}
}

func (w *world) opExtents() {
	v, vol := w.anyOpenVolume()
	if vol == nil {
		return
	}
	for off := int64(0); off < v.size; {
		hole, n, err := vol.Extent(context.Background(), off)
		if !w.answered(err, "extent") {
			return
		}
		if n < 1 || off+n > v.size {
			w.failf("extent at %d of %d bytes", off, n)
		}
		for i := off / SectorSize; hole && i < (off+n)/SectorSize; i++ {
			if v.cur[i] != "" {
				w.failf("extent %d+%d is a hole, but sector %d holds %s", off, n, i, short(v.cur[i]))
			}
		}
		off += n
	}
	w.note("extents of %s", v.name)
}

func (w *world) opSnapshot() {
	v := w.anyVolume()
	if v == nil || len(v.snaps) > 6 || v.scratch || len(v.unsure) > 0 {
		return
	}
	w.names++
	name := fmt.Sprintf("s%d", w.names)
	sn := &modelSnap{content: append([]string(nil), v.cur...), maybeGone: true}
	v.snaps[name] = sn
	ctx, cancel := ctxTimeout()
	defer cancel()
	_, err := w.s.CreateSnapshot(ctx, v.name, name)
	w.note("snapshot %s@%s: %v", v.name, name, err)
	if !w.answered(err, "snapshot") {
		return
	}
	sn.maybeGone = false
	v.flushed() // the layers that it is made of are durable
	if w.pick(2, "look") == 0 {
		w.checkSnap(v, name)
	}
}

// anySnap picks a snapshot that is there for certain.
func (w *world) anySnap() (*modelVolume, string) {
	v := w.anyVolume()
	if v == nil {
		return nil, ""
	}
	var names []string
	for _, n := range sortedKeys(v.snaps) {
		if !v.snaps[n].maybeGone {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil, ""
	}
	return v, names[w.pick(len(names), "snapshot")]
}

func (w *world) opWait() {
	v, name := w.anySnap()
	if v == nil {
		return
	}
	var view *View
	var err error
	if w.pick(2, "look meanwhile") == 0 {
		if view, err = w.s.OpenSnapshot(v.name, name); !w.answered(err, "open snapshot") {
			return
		}
		w.checkView(view, v.snaps[name].content, name)
	}
	ctx, cancel := ctxTimeout()
	defer cancel()
	i, err := w.s.WaitSnapshot(ctx, v.name, name)
	w.note("wait %s@%s: %s %v", v.name, name, i.Root, err)
	if view != nil {
		w.checkView(view, v.snaps[name].content, name)
		if err := view.Close(); err != nil {
			w.failf("close view: %v", err)
		}
	}
	if !w.answered(err, "wait") {
		return
	}
	v.snaps[name].root = modelRoot(v.snaps[name].content, w.chunkSize)
	w.checkSnapInfo(v, name, i)
	w.checkSnap(v, name)
}

func (w *world) opDeleteSnapshot() {
	v, name := w.anySnap()
	if v == nil {
		return
	}
	err := w.s.DeleteSnapshot(context.Background(), v.name, name)
	w.note("delete snapshot %s@%s: %v", v.name, name, err)
	v.snaps[name].maybeGone = true
	if w.answered(err, "delete snapshot") {
		delete(v.snaps, name)
	}
}

func (w *world) opSettle() {
	w.readAllHeld()
	ctx, cancel := ctxTimeout()
	defer cancel()
	err := w.s.Settle(ctx)
	w.note("settle: %v", err)
	if !w.answered(err, "settle") {
		return
	}
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		if v.maybeGone || len(v.unsure) > 0 || v.rolling != nil {
			continue
		}
		i, err := w.s.VolumeInfo(name)
		if !w.answered(err, "volume info") {
			return
		}
		if want := modelRoot(v.cur, w.chunkSize); i.Root != want {
			w.failf("volume %s has settled to root %s, want %s", name, i.Root, want)
		}
		if want := modelLogical(v.cur, w.chunkSize); i.Logical != want || i.Tail != 0 {
			w.failf("volume %s has %d logical bytes and a tail of %d, want %d and none", name, i.Logical, i.Tail, want)
		}
		v.flushed()
	}
}

func (w *world) opCreate() {
	if len(w.vols) >= 4 {
		return
	}
	w.names++
	name := fmt.Sprintf("v%d", w.names)
	bs := []int{512, 4096}[w.pick(2, "block size")]
	size := int64(1+w.pick(2<<20/bs, "size")) * int64(bs)
	_, err := w.s.CreateVolume(context.Background(), name, VolumeOptions{Size: size, BlockSize: bs})
	w.note("create %s of %d: %v", name, size, err)
	v := newModelVolume(name, size, bs)
	v.maybeGone = !w.answered(err, "create")
	w.vols[name] = v
}

func (w *world) opDelete() {
	v := w.anyVolume()
	if v == nil {
		return
	}
	if vol := w.open[v.name]; vol != nil {
		err := w.s.DeleteVolume(context.Background(), v.name)
		if !w.mem.WasCut() && (err == nil || !errors.Is(err, ErrInUse) && !w.tolerates(err)) {
			w.failf("delete a volume that is open: %v", err)
		}
		delete(w.open, v.name)
		if err := vol.Close(); !w.answered(err, "close volume") {
			return
		}
		v.flushed()
	}
	err := w.underHeldPlans(v, func() error { return w.s.DeleteVolume(context.Background(), v.name) })
	w.note("delete %s: %v", v.name, err)
	if len(v.snaps) > 0 {
		sure := false
		for _, sn := range v.snaps {
			sure = sure || !sn.maybeGone
		}
		if sure && !w.mem.WasCut() && !errors.Is(err, ErrInUse) && !w.tolerates(err) {
			w.failf("delete a volume with snapshots: %v", err)
		}
		if err != nil && (sure || errors.Is(err, ErrInUse)) {
			return
		}
	}
	v.maybeGone = true
	if w.answered(err, "delete") {
		delete(w.vols, v.name)
	}
}

// heldPlan is a plan that is read late, and what it has to read then.
type heldPlan struct {
	p    Plan
	off  int64
	want []string
}

// holdPlan makes a plan; nil if the cut was met, or if it is not known what it would have to read.
func (w *world) holdPlan(v *modelVolume, im Image) *heldPlan {
	if len(v.unsure) > 0 {
		return nil
	}
	off, n := w.extent(v, true)
	h := &heldPlan{off: off, want: slices.Clone(v.cur[off/SectorSize : (int(off)+n)/SectorSize])}
	if err := planLoaded(context.Background(), im, off, n, &h.p); !w.answered(err, "plan") {
		return nil
	}
	return h
}

// readHeld reads a held plan, and releases it.
func (w *world) readHeld(v *modelVolume, im Image, h *heldPlan) {
	got := make([]byte, len(h.want)*SectorSize)
	err := readPieces(&h.p, got)
	im.Release(&h.p)
	if !w.answered(err, "read by a held plan") {
		return
	}
	for i := range h.want {
		if s := sectorOf(got[i*SectorSize : (i+1)*SectorSize]); s != h.want[i] {
			w.failf("held plan of %s: sector %d is %s, want %s", v.name, int(h.off/SectorSize)+i, short(s), short(h.want[i]))
		}
	}
}

// underHeldPlans drops what a volume has not settled, by drop, while plans of it are held, as a
// check's are that looks at the tail: from before and after its writes were frozen, so that they
// count on several pins.
func (w *world) underHeldPlans(v *modelVolume, drop func() error) error {
	w.s.catalog.mu.Lock()
	vol, err := w.s.catalog.volume(v.name)
	writable := false
	if err == nil {
		vol.mu.Lock()
		writable = vol.writable
		vol.mu.Unlock()
	}
	w.s.catalog.mu.Unlock()
	if !writable || w.pick(2, "hold plans") == 0 { // nobody has opened it yet
		return drop()
	}
	var held []*heldPlan
	for range 1 + w.pick(3, "plans") {
		gen, err := vol.freeze()
		frozen := w.answered(err, "freeze")
		off, n := w.extent(v, true)
		p := w.data(off, n)
		first, sectors := v.overlay(off, p)
		_, err = vol.WriteAt(p, off)
		w.note("write %s %d+%d, to be dropped: %v", v.name, off, n, err)
		w.wrote(v, &Volume{volume: vol}, first, sectors, err, "write")
		if h := w.holdPlan(v, vol); h != nil {
			held = append(held, h)
		}
		if frozen && w.pick(2, "settle") == 0 {
			ctx, cancel := ctxTimeout()
			w.answered(w.s.settler.waitSettled(ctx, vol, gen), "settle") // its room waits for the plans
			cancel()
		}
		time.Sleep(time.Duration(w.pick(3, "milliseconds")) * time.Millisecond)
	}
	dropped := make(chan error, 1)
	go func() { dropped <- drop() }()
	for len(held) > 0 { // the newest may go before the others
		time.Sleep(time.Duration(w.pick(3, "milliseconds")) * time.Millisecond)
		i := w.pick(len(held), "which")
		w.readHeld(v, vol, held[i])
		held = slices.Delete(held, i, i+1)
	}
	return <-dropped
}

func (w *world) opCloseVolume() {
	v := w.anyVolume()
	if v == nil || w.open[v.name] == nil {
		return
	}
	vol := w.open[v.name]
	delete(w.open, v.name)
	err := vol.Close()
	w.note("close %s: %v", v.name, err)
	if w.answered(err, "close volume") {
		v.flushed()
	}
}

// opRest lets volumes that nobody uses rest, as after minutes without a user.
func (w *world) opRest() {
	w.opSettle()
	if w.mem.WasCut() {
		return
	}
	w.opCloseVolume()
	for _, v := range w.s.catalog.all() {
		err := v.deactivate()
		w.note("rest %s: %v", v.ref.Name, err)
		if !w.answered(err, "rest") {
			return
		}
	}
}

// opRoots opens every root that the store lists.
func (w *world) opRoots() {
	byRoot := map[string][]string{}
	for _, name := range sortedKeys(w.vols) {
		for _, sn := range w.vols[name].snaps {
			if sn.root != "" {
				byRoot[sn.root] = sn.content
			}
		}
	}
	for _, root := range w.s.Roots() {
		view, err := w.s.OpenRoot(root)
		if errors.Is(err, ErrNotFound) {
			continue // settling went on meanwhile
		}
		if !w.answered(err, "open root") {
			return
		}
		if c := byRoot[root]; c != nil {
			w.checkView(view, c, root)
		}
		if view.Root() != root {
			w.failf("root %s opened as %s", root, view.Root())
		}
		if err := view.Close(); err != nil {
			w.failf("close root: %v", err)
		}
	}
	w.note("roots")
}
