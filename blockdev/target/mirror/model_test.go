package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"varve/uring/queue"
)

// The model runs an array over disks in memory: what the queues and goroutines of a Mirror do is done
// here one step after the other, in random order, with disks that fail, and with a crash at any
// access of any disk. A crash takes the process alone, or the power too: then each sector of each
// disk is any of those written to it since the disk's last sync.

const (
	cell      = 512
	testSize  = 4 * MinRegionSize
	testLegs  = 3
	manyCells = 16 // that are written: four in each region
)

// crashed is thrown where the process ends.
type crashed struct{}

// memDisk is a disk.
type memDisk struct {
	w        *world
	name     string
	durable  map[int64][]byte   // by sector number
	volatile map[int64][][]byte // written since the last sync, in order
	bad      map[string]bool    // "read", "write", "sync": fails
	badAt    map[int64]bool     // sectors that can't be read until they are written
}

var errBad = errors.New("bad disk")

func (d *memDisk) Path() string { return d.name }

func (d *memDisk) access(kind string) error {
	if d.w.fuse--; d.w.fuse == 0 {
		panic(crashed{})
	}
	if d.bad[kind] {
		return errBad
	}
	return nil
}

func (d *memDisk) ReadAt(p []byte, off int64) error {
	if err := d.access("read"); err != nil {
		return err
	}
	for i := 0; i < len(p); i += cell {
		s := (off + int64(i)) / cell
		if d.badAt[s] {
			return errBad
		}
		copy(p[i:i+cell], d.sector(s))
	}
	return nil
}

func (d *memDisk) sector(s int64) []byte {
	if v := d.volatile[s]; len(v) > 0 {
		return v[len(v)-1]
	}
	if b := d.durable[s]; b != nil {
		return b
	}
	return make([]byte, cell)
}

func (d *memDisk) WriteAt(p []byte, off int64) error {
	err := d.bad["write"]
	for i := 0; i < len(p); i += cell {
		if err && d.w.rnd.IntN(2) == 0 { // what fails may be there in part
			continue
		}
		s := (off + int64(i)) / cell
		d.volatile[s] = append(d.volatile[s], append([]byte(nil), p[i:i+cell]...))
		delete(d.badAt, s)
	}
	return d.access("write")
}

func (d *memDisk) Zero(off, length int64, _ bool) error { return d.WriteAt(make([]byte, length), off) }

func (d *memDisk) Sync() error {
	if err := d.access("sync"); err != nil {
		return err
	}
	for s, v := range d.volatile {
		d.durable[s] = v[len(v)-1]
	}
	clear(d.volatile)
	return nil
}

// cut is a power cut.
func (d *memDisk) cut() {
	for s, v := range d.volatile {
		if i := d.w.rnd.IntN(len(v) + 1); i > 0 {
			d.durable[s] = v[i-1]
		}
	}
	clear(d.volatile)
}

// value is something that was written to a cell.
type value struct {
	tag  uint64
	done bool // acknowledged
	bad  bool // answered with an error: it may be there
}

// request is an op of a client.
type request struct {
	op          op
	first, last int // cells of a write
	tag         uint64
	todo        []int // legs that it is still to be done on
	failed      legSet
	err         error
	sent        bool
	marks       [manyCells]uint64 // of a flush: the newest acknowledged values before it
}

func (r *request) writes() bool { return r.op.span.end > 0 }

type world struct {
	t     *testing.T
	rnd   *rand.Rand
	fuse  int // accesses until the crash; below 0: none
	disks [testLegs]*memDisk
	a     *array
	c     *copier
	reqs  []*request
	woken []func()
	cells [manyCells][]value // the first is what has to survive a power cut
	tags  uint64
	crash map[string]int // how often what happened
	trace []string       // the last steps
}

// log notes a step for a failure's message.
func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.trace[max(0, len(w.trace)-60):] {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), fuse: -1, crash: map[string]int{}}
	s := state{id: uuid.UUID{1}, legs: testLegs, size: testSize, region: MinRegionSize, block: cell, events: 1}
	all := newBitmap(s.regions())
	all.setAll()
	s.parts = [MaxLegs]part{partInSync, partResyncing, partResyncing}
	for i := range w.disks {
		w.disks[i] = &memDisk{
			w: w, name: fmt.Sprint("disk", i), durable: map[int64][]byte{}, volatile: map[int64][][]byte{}, bad: map[string]bool{}, badAt: map[int64]bool{},
		}
		if err := writeLeg(w.disks[i], &s, i, all); err != nil {
			t.Fatal(err)
		}
	}
	for i := range w.cells {
		w.cells[i] = []value{{done: true}}
	}
	w.open(nil)
	return w
}

// offset of a cell on the disk.
func offset(i int) int64 { return int64(i/4)*MinRegionSize + int64(i%4)*cell }

// open opens the set without the legs that are missing.
func (w *world) open(missing map[int]bool) {
	var k known
	for i, d := range w.disks {
		if missing[i] {
			continue
		}
		s, index, slot, err := readState(d)
		if err != nil {
			w.t.Fatalf("leg %d: %v", i, err)
		}
		if index != i {
			w.t.Fatalf("leg %d is %d", i, index)
		}
		k[i] = &found{path: d.name, state: s, slot: slot, disk: d}
	}
	p, err := k.assemble(len(missing) > 0, -1)
	if err != nil {
		for i, f := range k {
			if f != nil {
				w.t.Logf("leg %d: events %d, parts %v, left %v", i, f.state.events, f.state.parts[:testLegs], f.state.left[:testLegs])
			}
		}
		w.fatalf("open without %v: %v; was: %+v, failing %b", missing, err, w.a.state, w.a.failing)
	}
	if w.a, err = k.join(p, false, slog.New(slog.DiscardHandler)); err != nil {
		w.t.Fatal(err)
	}
	w.a.wake = w.wake
	w.c = newCopier(w.a, nil)
}

func (w *world) wake(o *op, a queue.Action, err error) {
	for _, r := range w.reqs {
		if &r.op != o {
			continue
		}
		w.woken = append(w.woken, func() {
			if a == queue.Again {
				w.send(r)
			} else {
				w.answered(r, err)
			}
		})
		return
	}
	w.t.Fatal("an op was woken that is not under way")
}

// send begins a request.
func (w *world) send(r *request) {
	if !w.a.begin(&r.op) {
		return
	}
	r.sent, r.todo, r.failed, r.err = true, nil, 0, nil
	w.log("send %d to %b, cells %d to %d", r.tag, r.op.legs, r.first, r.last)
	for i := range testLegs {
		if r.op.legs.has(i) {
			r.todo = append(r.todo, i)
		}
	}
	w.rnd.Shuffle(len(r.todo), func(i, j int) { r.todo[i], r.todo[j] = r.todo[j], r.todo[i] })
	for i := r.first; r.writes() && i <= r.last; i++ {
		w.cells[i] = append(w.cells[i], value{tag: r.tag})
	}
}

// advance does a request on one of its legs.
func (w *world) advance(r *request) {
	leg := r.todo[0]
	r.todo = r.todo[1:]
	err := w.transfer(r, r.op.view.legs[leg].disk)
	w.log("request %d on leg %d: %v", r.tag, leg, err)
	if err != nil {
		r.failed |= one(leg)
		r.err = err
	}
	if len(r.todo) == 0 {
		r.sent = false
		if done, err := w.a.end(&r.op, r.failed, r.err); done {
			w.answered(r, err)
		}
	}
}

func (w *world) transfer(r *request, d disk) error {
	if !r.writes() {
		return d.Sync()
	}
	p := make([]byte, r.op.span.end-r.op.span.off)
	for i := 0; i < len(p); i += cell {
		copy(p[i:], fmt.Sprintf("%d", r.tag))
	}
	return d.WriteAt(p, DataOffset+r.op.span.off)
}

// answered ends a request.
func (w *world) answered(r *request, err error) {
	w.log("request %d is answered: %v", r.tag, err)
	for i, one := range w.reqs {
		if one == r {
			w.reqs = append(w.reqs[:i], w.reqs[i+1:]...)
			break
		}
	}
	if err != nil {
		w.crash["errors"]++
	}
	if r.writes() {
		for i := r.first; i <= r.last; i++ {
			for j := range w.cells[i] {
				if v := &w.cells[i][j]; v.tag == r.tag {
					v.done, v.bad = err == nil, err != nil
				}
			}
		}
		return
	}
	if err != nil {
		return
	}
	for i := range w.cells {
		for j, v := range w.cells[i] {
			if v.tag == r.marks[i] && j > 0 {
				w.cells[i] = append([]value(nil), w.cells[i][j:]...)
				break
			}
		}
	}
}

// newest returns the number of the newest value of a cell that was acknowledged.
func (w *world) newest(i int) int {
	for j := len(w.cells[i]) - 1; j > 0; j-- {
		if w.cells[i][j].done {
			return j
		}
	}
	return 0
}

func (w *world) newRequest() {
	r := &request{}
	if w.rnd.IntN(5) == 0 {
		for i := range r.marks {
			r.marks[i] = w.cells[i][w.newest(i)].tag
		}
	} else {
		w.tags++
		r.tag, r.first = w.tags, w.rnd.IntN(manyCells)
		r.last = r.first
		if r.first%4 < 3 {
			r.last += w.rnd.IntN(2)
		}
		r.op.span.off, r.op.span.end = offset(r.first), offset(r.last)+cell
	}
	w.reqs = append(w.reqs, r)
	w.send(r)
}

// check reads each cell that nothing is under way for on each leg that a read may use: one answer,
// which is one of those that it may be, and is the answer from then on.
func (w *world) check(after string) {
	v := w.a.view.Load()
	if v.readable == 0 {
		w.fatalf("%s: no leg is left to be read", after)
	}
	for i := range w.cells {
		busy := false
		for _, r := range w.reqs {
			busy = busy || r.writes() && r.first <= i && i <= r.last
		}
		if busy {
			continue
		}
		first := uint64(0)
		seen := false
		for l := range testLegs {
			if !v.readable.has(l) {
				continue
			}
			var tag uint64
			_, _ = fmt.Sscanf(string(v.legs[l].disk.(*memDisk).sector((DataOffset+offset(i))/cell)), "%d", &tag)
			if seen && tag != first {
				w.fatalf("%s: cell %d is %d on one leg and %d on leg %d", after, i, first, tag, l)
			}
			first, seen = tag, true
		}
		w.pin(i, first, after)
	}
}

// pin has a cell hold a value that was read.
func (w *world) pin(i int, tag uint64, after string) {
	list, from := w.cells[i], w.newest(i)
	if after == "power cut" {
		from = 0
	}
	for j := from; j < len(list); j++ {
		if list[j].tag != tag {
			continue
		}
		switch {
		case after == "power cut":
			w.cells[i] = []value{{tag: tag, done: true}}
		case w.a.failing != 0:
			// A leg that has failed is not durably out yet: what was answered with an error may be there
			// after a crash, and be read.
		case j != from: // what has failed, or was not answered when the process ended, is there
			list[j].done = true
			w.cells[i] = list[:j+1]
		default:
			w.cells[i] = list[:j+1]
		}
		return
	}
	w.fatalf("%s: cell %d is %d, of %+v, the newest acknowledged is %d", after, i, tag, list, from)
}

// end is the end of the process, or of the power, and the next opening.
func (w *world) end(power bool) {
	w.fuse = -1
	for _, r := range w.reqs { // what is in flight may arrive still, at each leg by itself
		for _, leg := range r.todo {
			if r.sent && w.rnd.IntN(2) == 0 {
				_ = w.transfer(r, r.op.view.legs[leg].disk)
			}
		}
	}
	w.reqs, w.woken = nil, nil
	after := "kill"
	if power {
		after = "power cut"
		for _, d := range w.disks {
			d.cut()
		}
	}
	w.crash[after]++
	w.log("%s, parts %v, failing %b", after, w.a.state.parts[:testLegs], w.a.failing)
	good := w.a.state.in(partInSync) &^ w.a.failing
	missing := map[int]bool{}
	for i, d := range w.disks {
		clear(d.bad)
		if w.rnd.IntN(5) == 0 && good&^one(i) != 0 {
			good &^= one(i)
			missing[i] = true
			w.crash["missing"]++
		}
	}
	w.open(missing)
	w.log("opened without %v: parts %v, bits %b, stale %b", missing, w.a.state.parts[:testLegs], w.a.intent.words, w.a.stale.words)
	w.check(after)
}

// step does one thing. It may crash.
func (w *world) step() {
	switch n := w.rnd.IntN(30); {
	case n < 6 && len(w.reqs) < 6:
		w.newRequest()
	case n < 18:
		if len(w.reqs) == 0 {
			return
		}
		if r := w.reqs[w.rnd.IntN(len(w.reqs))]; r.sent {
			w.advance(r)
		}
	case n < 22:
		w.a.keep()
	case n < 24:
		w.a.keep()
		w.a.bringIn()
	case n == 24:
		w.a.forget()
	case n < 27:
		w.copyOne()
	case n == 27:
		if w.fuse < 0 && w.rnd.IntN(2) == 0 {
			w.fuse = 1 + w.rnd.IntN(12)
		}
		w.rejoin()
		w.catchUp()
	default:
		w.spoil()
	}
	for len(w.woken) > 0 {
		f := w.woken[0]
		w.woken = w.woken[1:]
		f()
	}
}

func (w *world) copyOne() {
	region, joins, err := w.c.next(w.rnd.IntN(4))
	if err != nil || region < 0 {
		return
	}
	if from := int64(region) * MinRegionSize; w.a.ranges.covers(from, from+MinRegionSize) {
		return // it would wait
	}
	err = w.c.copyRegion(region, joins)
	w.log("region %d is copied: %v; stale %b", region, err, w.a.stale.words)
	if err != nil {
		w.crash["unread"]++
	}
	w.a.skipped.clearAll()
}

func (w *world) rejoin() {
	for i, d := range w.disks {
		if w.a.state.parts[i] != partOut || w.rnd.IntN(2) == 0 {
			continue
		}
		clear(d.bad)
		_, err := w.a.rejoin(d, false, func(*leg) {})
		w.log("leg %d comes back: %v", i, err)
		if err == nil {
			w.crash["rejoined"]++
		} else if errors.Is(err, ErrSplit) {
			w.t.Fatal(err)
		}
	}
}

// catchUp brings in the legs that are behind, as far as that can be done: a mirror whose legs are all
// in sync is to be the rule.
func (w *world) catchUp() {
	for range 2 * w.a.state.regions() {
		w.copyOne()
	}
	w.a.keep()
	w.a.bringIn()
}

// spoil makes a disk fail, or fail no more.
func (w *world) spoil() {
	d := w.disks[w.rnd.IntN(testLegs)]
	kind := []string{"read", "write", "sync"}[w.rnd.IntN(3)]
	if w.rnd.IntN(2) == 0 {
		clear(d.bad)
	} else {
		d.bad[kind] = true
	}
}

// run does steps until one crashes, and opens the set again.
func (w *world) run(steps int) {
	for range steps {
		if w.fuse < 0 && w.rnd.IntN(40) == 0 {
			w.fuse = 1 + w.rnd.IntN(30)
		}
		was := w.a.state
		crashed := w.crashes(w.step)
		if w.a.state.parts != was.parts {
			w.log("parts %v, failing %b, events %d", w.a.state.parts[:testLegs], w.a.failing, w.a.state.events)
		}
		if crashed {
			w.end(w.rnd.IntN(2) == 0)
		} else if w.rnd.IntN(4) == 0 {
			w.check("a step")
		}
		if w.rnd.IntN(200) == 0 && w.fuse < 0 {
			w.reopen()
		}
	}
}

func (w *world) crashes(f func()) (yes bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, yes = p.(crashed); !yes {
				panic(p)
			}
		}
	}()
	f()
	return false
}

// reopen closes the set in order.
func (w *world) reopen() {
	for len(w.reqs) > 0 {
		for _, r := range append([]*request(nil), w.reqs...) {
			for r.sent {
				w.advance(r)
			}
		}
		w.a.keep()
		for len(w.woken) > 0 {
			f := w.woken[0]
			w.woken = w.woken[1:]
			f()
		}
	}
	for _, d := range w.disks {
		clear(d.bad)
	}
	if err := w.a.finish(); err != nil {
		w.t.Fatal(err)
	}
	w.crash["closed"]++
	w.open(nil)
	w.check("close")
}

// No read sees two answers, and nothing that was flushed is lost, whatever fails and whenever it ends.
func TestModel(t *testing.T) {
	did := map[string]int{}
	for seed := range uint64(100) {
		w := newWorld(t, seed)
		w.run(400)
		for what, n := range w.crash {
			did[what] += n
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	for _, what := range []string{"kill", "power cut", "missing", "rejoined", "closed", "errors", "unread"} {
		if did[what] == 0 {
			t.Errorf("%q did not happen", what)
		}
	}
	t.Log(did)
}
