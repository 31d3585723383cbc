package objstore

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"varve/objstore/index"
	"varve/objstore/vfs"
)

// fixedWorkload does a little of everything, always the same.
func fixedWorkload(w *world) {
	steps := []func(){
		func() { w.fixedCreate("a", 1<<20+512*3, 512) },
		func() { w.fixedCreate("b", 512<<10, 4096) },
		func() { w.fixedWrite("a", 0, 40000, 1) },
		func() { w.fixedWrite("b", 16384, 65536, 2) },
		func() { w.fixedFlush("a") },
		func() { w.fixedWrite("a", 100, 5000, 3) },
		func() { w.fixedZero("a", 8192, 16384) },
		func() { w.fixedSnap("a", "one") },
		func() { w.fixedWrite("a", 65536, 65536, 2) }, // what b has too
		func() { w.fixedWait("a", "one") },
		func() { w.fixedFlush("b") },
		func() { w.fixedWrite("b", 0, 3000, 4) },
		func() { w.opSettle() },
		func() { w.fixedWrite("a", 65536, 4096, 5) },
		func() { w.reopen() },
		func() { w.fixedWrite("b", 200000, 100000, 6) },
		func() { w.fixedSnap("b", "two") },
		func() { w.fixedDeleteSnap("a", "one") },
		func() { w.fixedZero("b", 0, 512<<10) },
		func() { w.opSettle() },
		func() { w.opCollect() },
		func() { w.fixedWrite("b", 16384, 65536, 2) }, // what was there before it was discarded, and collected
		func() { w.opSettle() },
		func() { w.fixedDelete("a") },
		func() { w.fixedFlush("b") },
		func() { w.reopen() },
		func() { w.fixedWrite("b", 0, 3000, 7) },
		func() { w.opCollect() },
		func() { w.opSettle() },
		func() { w.fixedClone("b", "two", "c") },
		func() { w.fixedResize("c", 3<<20) },
		func() { w.fixedWrite("b", 4096, 20000, 7) },
		func() { w.fixedRollback("b", "two", RollbackOptions{}) },
		func() { w.fixedWrite("b", 65536, 9000, 8) },
		func() { w.fixedClone("b", "", "d") },
		func() { w.fixedResize("c", 72<<10) },
		func() { w.fixedWrite("d", 0, 9000, 9) },
		func() { w.fixedWrite("b", 0, 9000, 9) },
		func() { w.fixedRollback("b", "two", RollbackOptions{NoSnapshot: true}) },
		func() { w.fixedWrite("b", 0, 512, 10) },
	}
	for _, step := range steps {
		stop := w.unstick()
		step()
		if stop(); w.mem.WasCut() {
			return
		}
	}
}

func (w *world) fixedCreate(name string, size int64, bs int) {
	_, err := w.s.CreateVolume(w.t.Context(), name, VolumeOptions{Size: size, BlockSize: bs})
	v := newModelVolume(name, size, bs)
	v.maybeGone = !w.answered(err, "create")
	w.vols[name] = v
}

// fixedVolume opens a volume of the workload, unless a fault kept it from being made.
func (w *world) fixedVolume(name string) (*modelVolume, *Volume) {
	if v := w.vols[name]; v == nil || v.rolling != nil { // what has become of the rollback is not known
		return nil, nil
	}
	return w.vols[name], w.volume(name)
}

func (w *world) fixedWrite(name string, off int64, n int, fill uint64) {
	v, vol := w.fixedVolume(name)
	if vol == nil {
		return
	}
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(fill, 9))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	first, sectors := v.overlay(off, p)
	_, err := vol.WriteAt(p, off)
	w.wrote(v, vol, first, sectors, err, "write")
}

func (w *world) fixedZero(name string, off, n int64) {
	v, vol := w.fixedVolume(name)
	if vol == nil {
		return
	}
	w.wrote(v, vol, int(off/SectorSize), make([]string, n/SectorSize), vol.Zero(off, n), "zero")
}

func (w *world) fixedFlush(name string) {
	if v, vol := w.fixedVolume(name); vol != nil && w.answered(vol.Flush(), "flush") {
		v.flushed()
	}
}

func (w *world) fixedSnap(name, snap string) {
	v := w.vols[name]
	if v == nil {
		return
	}
	v.snaps[snap] = &modelSnap{content: append([]string(nil), v.cur...), maybeGone: true}
	_, err := w.s.CreateSnapshot(w.t.Context(), name, snap)
	if w.answered(err, "snapshot") {
		v.snaps[snap].maybeGone = false
		v.flushed()
	}
}

func (w *world) fixedWait(name, snap string) {
	if w.vols[name] == nil || w.vols[name].snaps[snap] == nil {
		return
	}
	i, err := w.s.WaitSnapshot(w.t.Context(), name, snap)
	if w.answered(err, "wait") {
		w.vols[name].snaps[snap].root = modelRoot(w.vols[name].snaps[snap].content, w.chunkSize)
		w.checkSnapInfo(w.vols[name], snap, i)
	}
}

func (w *world) fixedDeleteSnap(name, snap string) {
	if w.vols[name] == nil || w.vols[name].snaps[snap] == nil {
		return
	}
	w.vols[name].snaps[snap].maybeGone = true
	if w.answered(w.s.DeleteSnapshot(w.t.Context(), name, snap), "delete snapshot") {
		delete(w.vols[name].snaps, snap)
	}
}

func (w *world) fixedClone(name, snap, clone string) {
	v := w.vols[name]
	if v == nil || v.rolling != nil || snap != "" && (v.snaps[snap] == nil || v.snaps[snap].maybeGone) {
		return
	}
	n := newModelVolume(clone, v.size, v.blockSize)
	copy(n.cur, v.cur)
	if snap != "" {
		copy(n.cur, v.snaps[snap].content)
	}
	n.maybeGone = true
	w.vols[clone] = n
	_, err := w.s.CloneVolume(w.t.Context(), name, snap, clone)
	if !w.answered(err, "clone") {
		return
	}
	if n.maybeGone = false; snap == "" {
		v.flushed()
	}
}

func (w *world) fixedRollback(name, snap string, o RollbackOptions) {
	v := w.vols[name]
	if v == nil || v.snaps[snap] == nil || v.snaps[snap].maybeGone || len(v.unsure) > 0 || v.rolling != nil {
		return
	}
	if vol := w.open[name]; vol != nil {
		delete(w.open, name)
		if err := vol.Close(); !w.answered(err, "close") {
			return
		}
		v.flushed()
	}
	v.rolling = &modelRollback{to: v.snaps[snap].content, before: slices.Clone(v.cur), keeps: !o.NoSnapshot}
	r, err := w.s.RollbackVolume(w.t.Context(), name, snap, o)
	if !w.answered(err, "rollback") {
		if vol := w.volume(name); vol != nil && !w.mem.WasCut() {
			w.checkVolume(v, vol, false)
		}
		return
	}
	if r.Snapshot != "" {
		v.snaps[r.Snapshot] = &modelSnap{content: v.rolling.before}
	}
	v.rolledBack()
}

func (w *world) fixedResize(name string, size int64) {
	v := w.vols[name]
	if v == nil || v.maybeGone || v.resizing != 0 { // what has become of the last one is not known
		return
	}
	v.resizing = size
	if _, err := w.s.ResizeVolume(w.t.Context(), name, size, ResizeOptions{Shrink: true}); w.answered(err, "resize") {
		v.resized()
	}
}

func (w *world) fixedDelete(name string) {
	if vol := w.open[name]; vol != nil {
		delete(w.open, name)
		if err := vol.Close(); !w.answered(err, "close") {
			return
		}
		w.vols[name].flushed()
	}
	if w.vols[name] == nil {
		return
	}
	w.vols[name].maybeGone = true
	if w.answered(w.s.DeleteVolume(w.t.Context(), name), "delete") {
		delete(w.vols, name)
	}
}

func fixedWorld(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed, func(n int, _ string) int { return 0 })
	w.mem = vfs.NewMem(0)
	w.idx = index.NewMem()
	w.chunkSize = 4096
	w.opts.SettleDelay = -1
	w.opts.SegmentSize = smallestSegment
	return w
}

// The fixed workload, cut at every single operation, in every way.
func TestEveryCut(t *testing.T) {
	whole := fixedWorld(t, 0)
	whole.init()
	begin := whole.mem.Ops()
	fixedWorkload(whole)
	end := whole.mem.Ops()
	whole.must(whole.stop())
	stride := int64(13)
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	cuts, start := 0, time.Now()
	for n := begin; n < end+20; n += stride { // workers shift the count a little from run to run
		for kind := range crashKinds {
			w := fixedWorld(t, uint64(n))
			w.init()
			w.mem.SetSeed(n * int64(kind%2))
			w.mem.CutAt(n)
			fixedWorkload(w)
			w.note("cut at %d of %d by %s", n, end, crashNames[kind])
			w.crash(kind, false)
			w.opSettle() // checks roots
			w.reopen()
			w.must(w.stop())
			cuts++
		}
	}
	t.Logf("%d operations, %v", end-begin, time.Since(start))
	t.Logf("crash: %d cuts", cuts/crashKinds)
	t.Logf("crash: %d process kills", cuts-cuts/crashKinds)
}

// Each moment of the fixed workload, and of what a power cut then can leave, many disks; the kernel
// writes back early in every other run.
func TestEveryMoment(t *testing.T) {
	whole := fixedWorld(t, 0)
	whole.init()
	begin := whole.mem.Ops()
	fixedWorkload(whole)
	end := whole.mem.Ops()
	whole.must(whole.stop())
	disks, stride := 2, int64(29)
	if crashCuts(t, 0) > 0 {
		disks, stride = max(2, crashCuts(t, 0)/2/int(end-begin)), 1
	}
	cuts, seed := 0, firstSeed(t)
	for n := begin; n < end; n += stride {
		w := fixedWorld(t, seed+uint64(n))
		w.others = disks
		w.init()
		w.mem.SetSeed(int64(seed) + n*(n%2))
		w.mem.CutAt(n)
		fixedWorkload(w)
		w.note("cut at %d of %d", n, end)
		w.otherDisks()
		cuts += w.counts["other disks"]
		w.must2(w.stop())
	}
	t.Logf("crash: %d cuts, of %d moments", cuts, (end-begin)/stride)
}

// Recovery from each kind of crash, itself cut at every operation.
func TestEveryCutOfRecovery(t *testing.T) {
	const inWorkload = 100
	cuts, stride := 0, int64(4)
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	for kind := range crashKinds {
		for second := range crashKinds {
			for n := int64(0); ; n += stride {
				w := fixedWorld(t, uint64(n))
				w.init()
				w.mem.CutAt(inWorkload)
				fixedWorkload(w)
				w.goDown(kind)
				w.mem.CutAt(n)
				err := w.start()
				if err == nil && !w.mem.WasCut() {
					w.mem.CutAt(-1)
					w.checkAll()
					w.must(w.stop())
					break
				}
				w.note("recovery from %s cut at %d: %v", crashNames[kind], n, err)
				w.crash(second, false)
				w.must(w.stop())
				cuts++
				if n > 500 {
					w.failf("recovery takes more than 500 operations")
				}
			}
		}
	}
	if cuts < 40 {
		t.Fatalf("only %d cuts", cuts)
	}
	t.Logf("crash: %d crashes in recovery", cuts)
}
