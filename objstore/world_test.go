package objstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// world runs a store in memory beside its model. Its choices come from pick, so that rapid can
// shrink them.
type world struct {
	t    tester
	pick func(n int, what string) int
	rng  *rand.Rand // for bytes and power cuts

	mem         *vfs.Mem
	hook        atomic.Pointer[func(vfs.Op) error]
	idx         index.Index
	breaks      *breakableIndex // what the store has of idx
	slowSyncs   atomic.Int64    // nanoseconds that a sync may take longer
	trust       bool            // TrustCache answers yes
	lying       bool            // the index gives wrong answers
	boot, mount int
	opts        Options
	chunkSize   int
	space       int64 // of the file system in bytes; 0: plenty

	s        *Store
	vols     map[string]*modelVolume
	open     map[string]*Volume
	cut      bool // a power cut since the store was last open
	unsynced bool // a sync has failed: the next opening may go back to what was flushed

	closing  sync.Mutex
	closed   *Store // the last one that was closed, and how
	closeErr error

	freed  string // a name that a volume had
	others int    // how many other disks of the same power cut are looked at
	names  int
	log    []string

	held           []heldOn
	along          *along     // a collection that goes on beside the operations
	hooks          int64      // how many hooks were set
	unknownScratch [][]string // what the scratch volumes hold that were asked for, and may be there
	copied         CopiedFrom // what is to be said of the store, which was copied
	dark           bool       // there was a power cut, and no opening has come through since
	counts         map[string]int
	palette        [][]byte
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Context() context.Context
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 77)) }

func newWorld(t tester, seed uint64, pick func(n int, what string) int) *world {
	w := &world{
		t: t, pick: pick, rng: newRand(seed),
		vols: map[string]*modelVolume{}, open: map[string]*Volume{}, counts: map[string]int{},
	}
	if w.pick == nil {
		r := rand.New(rand.NewPCG(seed, 78))
		w.pick = func(n int, _ string) int { return r.IntN(n) }
	}
	w.mem = vfs.NewMem(int64(w.rng.Uint32() % 2 * w.rng.Uint32()))
	w.idx = index.NewMem()
	w.chunkSize = 4096 << w.pick(3, "chunk size")
	w.opts = Options{
		SegmentSize:    smallestSegment + []int64{0, 1 << 18, MaxRequest}[w.pick(3, "segment size")], // of the last, the pool keeps some
		TailSoft:       1 << 20,
		TailHard:       3 << 20,
		JournalRecords: journal.MinRecords,
		SettleDelay:    []time.Duration{-1, -1, time.Millisecond}[w.pick(3, "settle delay")],
		LeafCache:      smallestLeaves,
		FooterCache:    4096,
		Reserve:        1 << 20,
		enteredFirst:   []int{8, 1, -1}[w.pick(3, "segments entered first")],
	}
	w.opts.CollectRate = -1
	w.opts.shortestHole = []int64{disk.BlockSize, 0}[w.pick(2, "shortest hole")]
	w.opts.CollectMemory = []int64{0, 3 << 10}[w.pick(2, "memory for collection")] // of the latter, two passes
	w.lying = w.pick(3, "lying index") == 2
	for range 6 {
		w.palette = append(w.palette, w.random(w.chunkSize))
	}
	return w
}

func (w *world) random(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		le.PutUint64(b[i:], w.rng.Uint64())
	}
	return b
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
	if trace {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

func (w *world) failf(format string, args ...any) {
	w.t.Helper()
	from := max(0, len(w.log)-60)
	w.t.Fatalf("%s\nlast operations:\n  %s\nfiles:\n%s", fmt.Sprintf(format, args...), strings.Join(w.log[from:], "\n  "), w.mem.Dump())
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.failf("%v", err)
	}
}

// watch ends the process with all stacks when something hangs.
func watch(what string) func() {
	t := time.AfterFunc(3*time.Minute, func() {
		b := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%s hangs\n%s\n", what, b[:runtime.Stack(b, true)])
		os.Exit(3)
	})
	return func() { t.Stop() }
}

func (w *world) fs() vfs.FS {
	return vfs.Inject(w.mem, func(op vfs.Op) error {
		if trace && op.Kind != vfs.OpRead {
			fmt.Fprintf(os.Stderr, "    %d: %v %s %d+%d\n", w.mem.Ops(), op.Kind, op.Name, op.Off, op.Len)
		}
		if d := w.slowSyncs.Load(); d > 0 && (op.Kind == vfs.OpDatasync || op.Kind == vfs.OpSyncDir) {
			time.Sleep(time.Duration(rand.Int64N(d)))
		}
		if h := w.hook.Load(); h != nil {
			return (*h)(op)
		}
		return nil
	})
}

// trace prints every operation on files, for looking into one seed.
var trace = os.Getenv("VARVE_TRACE") != ""

func (w *world) setHook(h func(vfs.Op) error) {
	if h == nil {
		w.hook.Store(nil)
		return
	}
	w.hooks++
	w.hook.Store(&h)
}

func (w *world) init() {
	w.must(initFS(w.fs(), "mem", InitOptions{ChunkSize: w.chunkSize}))
	w.must(w.start())
	w.checkAll()
}

// start opens the store.
func (w *world) start() error {
	defer watch("open")()
	o := w.opts
	w.breaks = &breakableIndex{Index: w.idx, renew: func() (index.Index, error) { return index.NewMem(), nil }}
	if w.lying {
		w.breaks.Index = &lyingIndex{Index: w.idx, rng: newRand(w.rng.Uint64())}
	}
	o.FS, o.Index = w.fs(), w.breaks
	trust := w.trust
	o.TrustCache = func(string) bool { return trust }
	o.Boot, o.Mount = fmt.Sprint("boot", w.boot), fmt.Sprint("mount", w.mount)
	s, err := Open(context.Background(), "mem", o)
	if err != nil {
		return err
	}
	w.s = s
	if w.copied != "" {
		names, err := s.AcceptCopies(context.Background(), w.copied)
		if w.note("copied: %s; accept %v: %v", w.copied, names, err); err != nil {
			return err
		}
		w.copied = ""
	}
	return nil
}

// stop closes the store; after a crash only to end its goroutines.
func (w *world) stop() error {
	if w.s == nil {
		return nil
	}
	defer watch("close")()
	w.readAllHeld()
	err := w.close(w.s)
	w.s = nil
	w.endAlong()
	clear(w.open)
	return err
}

// close closes a store once, whoever asks.
func (w *world) close(s *Store) error {
	w.closing.Lock()
	defer w.closing.Unlock()
	if w.closed != s {
		w.closed, w.closeErr = s, s.Close()
	}
	return w.closeErr
}

// unstick closes a store whose files are cut off if an operation waits there for what will never
// come: the death of its process would have ended it.
func (w *world) unstick() (stop func()) {
	s, mem := w.s, w.mem
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond):
				if mem.WasCut() {
					_ = w.close(s)
					return
				}
			}
		}
	}()
	return func() { close(done) }
}

// Ways to go down.
const (
	kill = iota
	killRemount
	killTrusted
	powerCut
	crashKinds
)

var crashNames = [crashKinds]string{"kill", "kill and remount", "kill and trusted remount", "power cut"}

// crash takes the store down where it is, or where the cut was met, and brings it up again, with
// crashes on the way.
func (w *world) crash(kind int, again bool) {
	for {
		if kind == powerCut {
			w.otherDisks()
		}
		w.goDown(kind)
		if again && w.pick(3, "crash in recovery") == 0 {
			w.mem.CutAt(int64(w.pick(60, "crash in recovery at")))
		}
		err := w.start()
		if err == nil && !w.mem.WasCut() {
			w.mem.CutAt(-1)
			if !w.mem.WasCut() {
				break
			}
		}
		if err != nil && !w.mem.WasCut() {
			w.failf("open after a crash: %v", err)
		}
		w.counts["crashes in recovery"]++
		kind = w.pick(crashKinds, "kind of crash")
	}
	w.dark = false
	w.nothingDamaged()
	w.checkAll()
}

// nothingDamaged holds a store that a crash has left against its own account: a crash damages
// nothing.
func (w *world) nothingDamaged() {
	w.s.reportMu.Lock()
	defer w.s.reportMu.Unlock()
	if len(w.s.repairs) > 0 || len(w.s.losses) > 0 {
		w.failf("what a crash has left is taken for damage: repaired %v, lost %v", w.s.repairs, w.s.losses)
	}
}

// otherDisks brings the store up on other disks that a power cut at the same moment could have
// left: which sectors, sizes and names got there is a matter of chance.
func (w *world) otherDisks() {
	if w.others == 0 || !w.mem.WasCut() {
		return
	}
	w.must2(w.stop())
	for i := range w.others {
		c := w.clone()
		c.note("-- another disk of the same power cut: %d", i)
		c.crash(powerCut, false)
		c.opSettle() // checks roots
		c.must(c.stop())
		w.counts["other disks"]++
	}
}

// clone copies a world that is down, and its model.
func (w *world) clone() *world {
	c := &world{
		t: w.t, rng: newRand(w.rng.Uint64()), mem: w.mem, idx: w.idx, lying: w.lying, boot: w.boot, mount: w.mount,
		opts: w.opts, chunkSize: w.chunkSize, space: w.space, vols: map[string]*modelVolume{}, open: map[string]*Volume{},
		unknownScratch: w.unknownScratch, freed: w.freed, copied: w.copied, dark: w.dark,
		cut: w.cut, unsynced: w.unsynced, log: slices.Clone(w.log), counts: map[string]int{}, palette: w.palette,
	}
	r := newRand(w.rng.Uint64())
	c.pick = func(n int, _ string) int { return r.IntN(n) }
	for name, v := range w.vols {
		c.vols[name] = v.clone()
	}
	return c
}

// goDown takes the store down.
func (w *world) goDown(kind int) {
	w.counts[crashNames[kind]]++
	w.note("-- %s at operation %d", crashNames[kind], w.mem.Ops())
	mem := w.mem
	for _, h := range w.held { // their reader dies too
		h.im.Release(&h.p)
	}
	w.held = nil
	if kind != kill { // who waits for the device goes on waiting if its server dies once more
		w.trust = kind == killTrusted
	}
	switch kind {
	case powerCut:
		w.mem = mem.PowerCut(w.rng)
		w.boot, w.mount, w.cut, w.dark = w.boot+1, w.mount+1, true, true
		w.loseIndex()
	case killTrusted: // the device waits for its server, with all that was answered
		w.mem = mem.Kill()
		w.mount++
		w.cut = w.cut || w.unsynced
	case killRemount: // nobody vouches for the writes that were not flushed
		w.mem = mem.Kill()
		w.mount++
		w.cut = true
	default:
		w.mem = mem.Kill()
		w.cut = w.cut || w.unsynced
	}
	if kind != powerCut && w.pick(3, "torn record") == 2 {
		w.tearRecords()
	}
	w.must2(w.stop())
	w.unsynced = false
	if w.copied == "" && w.pick(8, "copied") == 0 && (kind == powerCut || kind == killTrusted) {
		w.mem.Move() // when its process was dead
		w.copied = CopiedStopped
		w.note("the files are copied")
	}
	if w.copied != "" && w.dark { // who says that all counts has to know that nothing is lost
		w.copied = CopiedSnapshot
	}
	w.mem.SetSeed(int64(w.rng.Uint32() % 2 * w.rng.Uint32()))
	w.mem.SetSpace(w.spaceOrPlenty())
}

func (w *world) must2(err error) {
	if err != nil && !errors.Is(err, vfs.ErrCut) && !errors.Is(err, ErrReadOnly) {
		w.failf("close after a crash: %v", err)
	}
}

func (w *world) spaceOrPlenty() int64 {
	if w.space == 0 {
		return 1 << 40
	}
	return w.space
}

// lyingIndex is an index gone bad: it is a hint, and the store must do with any answer.
type lyingIndex struct {
	index.Index
	mu   sync.Mutex
	rng  *rand.Rand
	seen []index.Location
}

func (l *lyingIndex) Get(h *[32]byte) (index.Location, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.Index.Get(h)
	if ok {
		l.seen = append(l.seen, p)
	}
	switch l.rng.IntN(6) {
	case 0:
		return index.Location{}, false
	case 1:
		if len(l.seen) > 0 {
			return l.seen[l.rng.IntN(len(l.seen))], true
		}
	case 2:
		return index.Location{Segment: l.rng.Uint32N(300), Block: l.rng.Uint32N(1200)}, true
	}
	return p, ok
}

func (l *lyingIndex) Put(entries []index.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rng.IntN(4) == 0 {
		return index.ErrNoSpace
	}
	return l.Index.Put(entries)
}

func (l *lyingIndex) Done(segment uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(4) == 0 || l.Index.Done(segment)
}

// loseIndex leaves of the index what a power cut could: any of its entries.
func (w *world) loseIndex() {
	if w.pick(2, "lose index") == 0 {
		w.idx = index.NewMem()
	}
}

// reopen closes the store in order and opens it again.
func (w *world) reopen() {
	w.note("close and open")
	w.counts["reopen"]++
	if err := w.stop(); err == nil {
		for _, v := range w.vols {
			v.flushed()
		}
	} else if !w.tolerates(err) {
		w.failf("close: %v", err)
	}
	if w.mem.WasCut() {
		return
	}
	if w.hook.Load() == nil && w.space == 0 && !w.unsynced && w.pick(4, "move") == 0 {
		w.note("the store is copied while it is closed")
		w.mem.Move()
	}
	w.cut, w.unsynced = w.cut || w.unsynced, false
	if w.breaks.Broken() || w.pick(6, "delete index") == 0 {
		w.idx = index.NewMem()
	}
	err := w.start()
	if err != nil && w.hook.Load() != nil && !w.mem.WasCut() {
		w.note("open: %v", err)
		w.setHook(nil)
		err = w.start()
	}
	if err != nil && !w.mem.WasCut() {
		w.failf("open: %v", err)
	}
	if !w.mem.WasCut() {
		w.checkAll()
	}
}

// checkAll compares the whole store with the model, after it was opened.
func (w *world) checkAll() {
	defer watch("check")()
	defer w.noFaults()()
	infos := map[string]VolumeInfo{}
	for _, name := range sortedKeys(w.vols) {
		w.resolveRename(w.vols[name], true)
	}
	w.checkScratch()
	for _, i := range slices.Concat(w.s.Volumes(), w.s.ScratchVolumes()) {
		infos[i.Name] = i
		if w.vols[i.Name] == nil {
			w.failf("volume %s is there again", i.Name)
		}
	}
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		i, ok := infos[name]
		if ok {
			v.resolveSize(i.Size)
			w.resolveLimits(v, Limits{i.Quota, i.Reserve})
		}
		switch {
		case !ok && v.maybeGone:
			delete(w.vols, name)
			continue
		case !ok:
			w.failf("volume %s is gone", name)
		case i.Size != v.size || i.BlockSize != v.blockSize:
			w.failf("volume %s is %+v", name, i)
		}
		v.maybeGone = false
		vol := w.volume(name)
		if vol == nil {
			return // cut again
		}
		w.checkVolume(v, vol, w.cut)
		if w.cut {
			clear(v.alts) // what was read after a power cut stays
		}
		w.checkSnaps(v)
		if !w.mem.WasCut() {
			w.checkHistory(v)
		}
	}
	if !w.mem.WasCut() {
		w.cut = false
	}
}

// noFaults lets every operation succeed until the function that it gives is called.
func (w *world) noFaults() func() {
	h := w.hook.Swap(nil)
	return func() { w.hook.Store(h) }
}

func (w *world) checkVolume(v *modelVolume, vol *Volume, cut bool) {
	defer w.noFaults()()
	got := make([]byte, v.size)
	if _, err := vol.ReadAt(got, 0); err != nil {
		if w.mem.WasCut() {
			return
		}
		w.failf("read volume %s: %v", v.name, err)
	}
	w.resolveRollback(v, got)
	if err := v.check(0, got, cut); err != nil {
		w.failf("%v", err)
	}
}

func (w *world) checkSnaps(v *modelVolume) {
	list, err := w.s.Snapshots(v.name)
	if err != nil {
		w.failf("list snapshots of %s: %v", v.name, err)
	}
	there := map[string]SnapshotInfo{}
	for _, i := range list {
		if slices.Contains(v.lost, i.Name) {
			if err := w.s.DeleteSnapshot(context.Background(), v.name, i.Name); !w.answered(err, "delete snapshot") {
				return
			}
			continue
		}
		there[i.Name] = i
		if i.Automatic && v.snaps[i.Name] == nil {
			w.findAutomatic(v, i.Name)
		}
		if v.snaps[i.Name] == nil {
			w.failf("snapshot %s@%s is there again", v.name, i.Name)
		}
	}
	v.lost, v.lostAutomatic = nil, nil
	v.checkPair(w, there)
	for _, name := range sortedKeys(v.snaps) {
		sn := v.snaps[name]
		i, ok := there[name]
		if !ok && !sn.maybeGone {
			w.failf("snapshot %s@%s is gone", v.name, name)
		}
		if !ok {
			delete(v.snaps, name)
			continue
		}
		sn.maybeGone = false
		w.checkSnapInfo(v, name, i)
		w.checkSnap(v, name)
	}
}

// checkSnapInfo holds a snapshot's root and size against its content.
func (w *world) checkSnapInfo(v *modelVolume, name string, i SnapshotInfo) {
	sn := v.snaps[name]
	if i.Root == "" {
		if sn.root != "" {
			w.failf("snapshot %s@%s had settled, and now it has not", v.name, name)
		}
		return
	}
	if sn.root == "" {
		sn.root = modelRoot(sn.content, w.chunkSize)
	}
	if i.Root != sn.root {
		w.failf("snapshot %s@%s has root %s, want %s", v.name, name, i.Root, sn.root)
	}
	if want := modelLogical(sn.content, w.chunkSize); i.Logical != want {
		w.failf("snapshot %s@%s has %d logical bytes, want %d", v.name, name, i.Logical, want)
	}
}

func (w *world) checkSnap(v *modelVolume, name string) {
	defer w.noFaults()()
	view, err := w.s.OpenSnapshot(v.name, name)
	if err != nil {
		if w.mem.WasCut() {
			return
		}
		w.failf("open snapshot %s@%s: %v", v.name, name, err)
	}
	w.checkView(view, v.snaps[name].content, v.name+"@"+name)
	if err := view.Close(); err != nil {
		w.failf("close snapshot: %v", err)
	}
}

func (w *world) checkView(view Image, content []string, name string) {
	defer w.noFaults()()
	got := make([]byte, view.Size())
	if _, err := view.ReadAt(got, 0); err != nil {
		if w.mem.WasCut() {
			return
		}
		w.failf("read %s: %v", name, err)
	}
	for i := range content {
		if s := sectorOf(got[i*SectorSize : (i+1)*SectorSize]); s != content[i] {
			var p Plan
			_ = planLoaded(context.Background(), view, int64(i)*SectorSize, SectorSize, &p)
			w.failf("%s sector %d holds %s, want %s; it lies at %s", name, i, short(s), short(content[i]), liesAt(&p))
		}
	}
}

func liesAt(p *Plan) string {
	var b strings.Builder
	for _, c := range p.Pieces {
		if c.Hole {
			fmt.Fprintf(&b, "hole+%d ", c.Len)
		} else {
			fmt.Fprintf(&b, "%s:%d+%d ", segment.Name(c.seg.ID), c.FileOff, c.Len)
		}
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// volume gives the volume's engine object, opened; nil if the cut was met.
func (w *world) volume(name string) *Volume {
	if v := w.open[name]; v != nil {
		return v
	}
	v, err := w.s.OpenVolume(name, "test")
	if err != nil {
		if w.tolerates(err) {
			return nil
		}
		w.failf("open volume %s: %v", name, err)
	}
	w.open[name] = v
	return v
}

// tolerates reports whether the error is one that the test brought about.
func (w *world) tolerates(err error) bool {
	if w.mem.WasCut() || w.hook.Load() != nil {
		return true
	}
	if !errors.Is(err, ErrNoSpace) {
		return false
	}
	limited := func(v *modelVolume) bool { return v.limited() }
	return w.space > 0 || slices.ContainsFunc(slices.Collect(maps.Values(w.vols)), limited)
}

// data makes the bytes of a write of n bytes at off: new ones, zeroes, or chunks that others have
// too.
func (w *world) data(off int64, n int) []byte {
	switch w.pick(4, "content") {
	case 0:
		return make([]byte, n)
	case 1, 2:
		p := w.palette[w.pick(len(w.palette), "pattern")]
		b := bytes.Repeat(p, n/len(p)+2)
		skip := int(off % int64(len(p)))
		return b[skip : skip+n]
	}
	return w.random((n + 7) / 8 * 8)[:n]
}

// extent picks a range inside a volume.
func (w *world) extent(v *modelVolume, aligned bool) (off int64, n int) {
	limit := []int{1, 8, 64, 512, 1200}[w.pick(5, "length class")]
	sectors := int(v.size / SectorSize)
	first := w.pick(sectors, "sector")
	count := min(1+w.pick(limit, "sectors"), sectors-first)
	if w.pick(2, "chunk aligned") == 0 {
		per := w.chunkSize / SectorSize
		first = first / per * per
		count = min((count+per-1)/per*per, sectors-first)
	}
	off, n = int64(first)*SectorSize, count*SectorSize
	if !aligned && w.pick(2, "unaligned") == 0 {
		skip := w.pick(SectorSize, "skip")
		off, n = off+int64(skip), max(1, n-skip-w.pick(SectorSize, "short"))
		n = int(min(int64(n), v.size-off))
	}
	return off, n
}

// anyVolume picks one that is there for certain.
func (w *world) anyVolume() *modelVolume {
	var names []string
	for _, n := range sortedKeys(w.vols) {
		if !w.vols[n].maybeGone {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return w.vols[names[w.pick(len(names), "volume")]]
}

// anyOpenVolume picks a volume and opens it; nil: there is none, or an error that the test brought
// about keeps it from being opened.
func (w *world) anyOpenVolume() (*modelVolume, *Volume) {
	v := w.anyVolume()
	if v == nil {
		return nil, nil
	}
	return v, w.volume(v.name)
}

// answered reports that an operation was answered before the cut: a process that was killed answers
// nobody.
func (w *world) answered(err error, what string) bool {
	if w.mem.WasCut() {
		return false
	}
	if err != nil && !w.tolerates(err) {
		w.failf("%s: %v", what, err)
	}
	return err == nil
}

// refsInDoubt reports whether a record that was answered with an error may take effect after a crash.
func (w *world) refsInDoubt() bool { return w.s.writeError() != nil || w.s.catalog.inDoubt() }

var le = binary.LittleEndian

// forgetJournal has a journal's header say no more than that of an older version: which journal it
// is, and through which page cache it was written.
func forgetJournal(t testing.TB, f interface {
	io.ReaderAt
	io.WriterAt
},
) {
	t.Helper()
	h := make([]byte, 512)
	_, err := f.ReadAt(h, 0)
	must(t, err)
	clear(h[64:508])
	le.PutUint32(h[508:], disk.Checksum(h[:508]))
	_, err = f.WriteAt(h, 0)
	must(t, err)
}

func fileBytes(t testing.TB, f vfs.File) []byte {
	t.Helper()
	c, err := disk.ReadContent(f)
	must(t, err)
	must(t, c.Err)
	return c.Data
}
