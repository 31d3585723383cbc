package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/index"
	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/record"
	"varve/objstore/internal/segment"
)

// damageWorld is a store with all that a store can have: sealed and open segments, volumes that
// have settled and tails of several generations, snapshots that have settled and ones that have
// not. Every write was flushed.
func damageWorld(t *testing.T, closed bool) *world {
	w := fixedWorld(t, 3)
	w.init()
	w.fixedCreate("a", 1<<20, 512)
	w.fixedCreate("b", 1<<20, 512)
	w.fixedCreate("c", 8<<20, 4096)
	w.fixedCreate("d", 256<<10, 512)
	w.fixedWrite("a", 0, 300000, 1)
	w.fixedWrite("b", 0, 300000, 1)
	w.fixedWrite("c", 0, 5<<20, 2) // more than a segment takes
	w.opSettle()
	w.fixedSnap("a", "one")
	w.fixedWrite("c", 5<<20, 1<<20, 3)
	w.fixedWrite("a", 4096, 8192, 4)
	w.opSettle()
	w.fixedSnap("c", "two")
	w.fixedSnap("a", "three")
	for i := range 20 {
		w.fixedWrite("b", int64(i)*50000, 5000+300*i, uint64(10+i))
		w.fixedFlush("b")
		if i == 9 {
			w.fixedSnap("b", "unsettled")
		}
	}
	w.fixedZero("b", 500000/512*512, 10240)
	w.fixedWrite("a", 600000, 4096*5, 3)
	w.fixedWrite("d", 0, 4096, 40)
	for _, name := range []string{"a", "b", "c", "d"} {
		w.fixedFlush(name)
		v, err := w.s.catalog.volume(name)
		w.must(err)
		for _, l := range v.layers {
			l.journal.MarkCommitted() // flushes do it once in a second
		}
	}
	w.endFixed(closed)
	return w
}

// harm is one way to damage a file.
type harm struct {
	name string
	do   func(b []byte, off int64) []byte
}

var harms = []harm{
	{"a flipped bit", func(b []byte, off int64) []byte { b[off] ^= 1 << (off % 8); return b }},
	{"zeroes in 64 bytes", func(b []byte, off int64) []byte { clear(b[off:min(off+64, int64(len(b)))]); return b }},
	{"noise in a sector", func(b []byte, off int64) []byte {
		at := off / 512 * 512
		copy(b[at:], randomBytes(uint64(off)+1, int(min(512, int64(len(b))-at))))
		return b
	}},
	{"a block of zeroes", func(b []byte, off int64) []byte {
		at := off / 4096 * 4096
		clear(b[at:min(at+4096, int64(len(b)))])
		return b
	}},
	{"a block inverted", func(b []byte, off int64) []byte {
		at := off / 4096 * 4096
		for i := at; i < min(at+4096, int64(len(b))); i++ {
			b[i] ^= 0xff
		}
		return b
	}},
	{"truncation", func(b []byte, off int64) []byte { return b[:off] }},
}

// boundaries gives the offsets in a file where something begins or ends, and one byte before each.
func (w *world) boundaries(name string, b []byte) []int64 {
	size := int64(len(b))
	at := map[int64]bool{0: true, 8: true, 12: true, 16: true, 32: true, 48: true, 63: true, 64: true, 508: true, 511: true, 512: true, size - 1: true}
	add := func(offs ...int64) {
		for _, o := range offs {
			at[o], at[o-1] = true, true
		}
	}
	switch {
	case strings.HasSuffix(name, ".dir") || strings.HasPrefix(name, "refs/"):
		for off := int64(record.HeaderSize); off+8 < size && le.Uint32(b[off+4:]) > 0; { // see package record
			next := off + disk.RoundUp(8+int64(le.Uint32(b[off+4:])), 8)
			add(off, off+4, off+8, next)
			off = next
		}
	case strings.HasPrefix(name, journal.Dir):
		for i := range 70 {
			add(journal.Offset(i))
			add(journal.Offset(i) + 4)
		}
		add(journal.Offset(128), journal.Offset(0)+journal.WindowSize)
	case strings.HasSuffix(name, ".seg"):
		add(disk.BlockSize, 2*disk.BlockSize, 5*disk.BlockSize, w.opts.SegmentSize-disk.BlockSize, w.opts.SegmentSize, w.opts.SegmentSize+segment.ObjectSize, size-segment.TrailerSize)
		for off := int64(disk.BlockSize); off < min(size, w.opts.SegmentSize); off += 37 * disk.BlockSize {
			add(off)
		}
	}
	maps.DeleteFunc(at, func(o int64, _ bool) bool { return o < 0 || o >= size })
	return slices.Sorted(maps.Keys(at))
}

// damaged gives a store with a file replaced; nil removes it.
func (w *world) damaged(name string, b []byte) *world {
	c := w.twin()
	c.must(c.mem.Remove(name))
	if b != nil {
		f, err := c.mem.Create(name)
		c.must(err)
		_, err = f.WriteAt(b, 0)
		c.must(err)
		c.must(f.Datasync())
		c.must(f.Close())
	}
	return c
}

// seen is what a damaged store shows.
type seen struct {
	errs  []error
	wrong map[string][]int64 // by image: bytes that are neither right nor an error
	tail  map[string]bool    // by image and byte: it has not settled, and nobody can check it
}

func (w *world) see() seen {
	s := seen{wrong: map[string][]int64{}, tail: map[string]bool{}}
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		vol, err := w.s.OpenVolume(name, "test")
		if err != nil {
			s.errs = append(s.errs, err)
		} else {
			w.seeImage(&s, vol, name, v.cur)
			w.must2(vol.Close())
		}
		for _, sn := range sortedKeys(v.snaps) {
			view, err := w.s.OpenSnapshot(name, sn)
			if err != nil {
				s.errs = append(s.errs, err)
				continue
			}
			w.seeImage(&s, view, name+"@"+sn, v.snaps[sn].content)
			w.must(view.Close())
		}
	}
	return s
}

func (w *world) seeImage(s *seen, im Image, name string, content []string) {
	const step = 64 << 10
	for off := int64(0); off < im.Size(); off += step {
		got := make([]byte, min(step, im.Size()-off))
		if _, err := im.ReadAt(got, off); err != nil {
			s.errs = append(s.errs, err)
			continue
		}
		for i := int64(0); i < int64(len(got)); i += SectorSize {
			at := off + i
			if sectorOf(got[i:i+SectorSize]) == content[at/SectorSize] {
				continue
			}
			s.wrong[name] = append(s.wrong[name], at)
			var p Plan
			w.must(planLoaded(context.Background(), im, at, SectorSize, &p))
			s.tail[fmt.Sprint(name, at)] = !p.Pieces[0].Hole && !p.Pieces[0].settled
			im.Release(&p)
		}
	}
}

// names reports whether a check names a byte of an image.
func (r *CheckReport) names(image string, off int64) bool {
	for i := range r.Damage {
		for _, a := range r.Damage[i].Affects {
			n := a.Volume
			if a.Snapshot != "" {
				n += "@" + a.Snapshot
			}
			if n == image && within(a.Ranges, off) {
				return true
			}
		}
	}
	return false
}

func within(ranges []Range, off int64) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return off >= r.Off && off < r.Off+r.Len })
}

// hold is what must be true of a store with one damaged file.
func (w *world) holdsUp(t *testing.T, what string, tally map[string]int) {
	if err := w.start(); err != nil {
		t.Errorf("%s: the store does not open: %v", what, err)
		return
	}
	defer func() { _ = w.stop() }()
	s := w.see()
	for _, err := range s.errs {
		var c *CorruptError
		if !errors.As(err, &c) || c.File == "" || c.Object == "" {
			t.Errorf("%s: an error does not name what is damaged: %v", what, err)
		}
	}
	report, err := w.s.Check(context.Background(), nil)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	for image, offs := range s.wrong {
		for _, off := range offs {
			if !report.names(image, off) && !s.tail[fmt.Sprint(image, off)] {
				t.Errorf("%s: byte %d of %s is wrong, and nobody says so; errors %v, check %+v", what, off, image, s.errs, report.Damage)
				break
			}
		}
	}
	switch {
	case len(s.errs) > 0:
		tally["refused"]++
	case len(s.wrong) > 0:
		tally["named by check"]++
	case len(report.Damage) > 0:
		tally["repaired"]++
	}
	if report.Damaged() == 0 && len(s.errs) > 0 {
		t.Errorf("%s: check finds nothing, but there are errors: %v", what, s.errs)
	}
	w.repairAll(t, what, tally)
}

// deleteVolume deletes a volume with its snapshots, which a damaged one lets be done.
func (w *world) deleteVolume(name string) {
	for sn := range w.vols[name].snaps {
		w.must(w.s.DeleteSnapshot(context.Background(), name, sn))
	}
	w.must(w.s.DeleteVolume(context.Background(), name))
}

// repairAll repairs every volume that is refused: it then has all but what the repair has said.
func (w *world) repairAll(t *testing.T, what string, tally map[string]int) {
	for _, info := range w.s.Volumes() {
		if info.Damage == "" {
			continue
		}
		said, err := w.s.RepairVolume(context.Background(), info.Name, false)
		if errors.Is(err, ErrCorrupt) && strings.HasSuffix(what, ".seg") {
			tally["nothing to go back to"]++
			w.deleteVolume(info.Name)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if w.s.catalog.volumes[w.s.catalog.refs.Volumes[info.Name].ID].damage.Load() == nil || said.Done {
			t.Errorf("%s: a repair that was not accepted was done", what)
		}
		done, err := w.s.RepairVolume(context.Background(), info.Name, true)
		if err != nil || !done.Done {
			t.Errorf("%s: repair of %s: %v", what, info.Name, err)
			continue
		}
		tally["repaired"]++
		v := w.vols[info.Name]
		vol, err := w.s.OpenVolume(info.Name, "test")
		if err != nil {
			t.Errorf("%s: repaired, but %v", what, err)
			continue
		}
		got := make([]byte, v.size)
		if _, err := vol.ReadAt(got, 0); err != nil && strings.Contains(what, journal.Dir) {
			t.Errorf("%s: repaired, but %v", what, err)
		}
		exact := done.Unknown == 0 && strings.Contains(what, journal.Dir) && !strings.Contains(info.Damage, "shorter")
		for i := int64(0); exact && i < v.size; i += SectorSize {
			if sectorOf(got[i:i+SectorSize]) != v.cur[i/SectorSize] && !within(done.Lost, i) {
				t.Errorf("%s: byte %d of %s is lost, and the repair has not said so: %+v", what, i, info.Name, done)
				break
			}
		}
		w.must(vol.Close())
	}
	// A tree node that is lost for good keeps what is written below it from settling.
	if err := w.s.Settle(context.Background()); err != nil && (!errors.Is(err, ErrCorrupt) || !strings.Contains(what, ".seg")) {
		t.Errorf("%s: repaired, but %v", what, err)
	}
	w.must(w.stop())
	w.must(w.start())
	for _, info := range w.s.Volumes() {
		if info.Damage != "" {
			t.Errorf("%s: repaired, and damaged again after reopening: %s", what, info.Damage)
		}
	}
}

// Every file of a store is damaged in every way: bits, bytes, sectors and blocks at each place
// where something begins or ends, and truncations there; and is missing. The store always opens.
// What a damage does not concern is right; what it does is an error that names the place, or is
// named by Check. A volume that is refused can be repaired, and then has all but what the repair
// has named.
func TestEveryDamage(t *testing.T) {
	stride := 101
	if crashCuts(t, 0) > 0 {
		stride = 1
	}
	t.Run("closed", func(t *testing.T) { t.Parallel(); everyDamage(t, true, stride) })
	t.Run("open", func(t *testing.T) { t.Parallel(); everyDamage(t, false, stride) })
}

// everyDamage tries one in stride of what can become of the files of a store that was closed, or
// was not.
func everyDamage(t *testing.T, closed bool, stride int) {
	total := map[string]int{}
	w := damageWorld(t, closed)
	for _, name := range w.metadata() {
		f, err := w.mem.Kill().Open(name)
		w.must(err)
		whole := fileBytes(t, f)
		tally, n := map[string]int{}, 0
		for i, h := range harms {
			for j, off := range w.boundaries(name, whole) {
				if (j*len(harms)+i)%stride != 0 {
					continue
				}
				b := h.do(bytes.Clone(whole), off)
				if bytes.Equal(b, whole) {
					continue
				}
				c := w.damaged(name, b)
				if n++; n%2 == 0 {
					c.idx = index.NewMem()
				}
				c.holdsUp(t, fmt.Sprintf("closed %v, %s at byte %d of %s", closed, h.name, off, name), tally)
				total[h.name]++
			}
		}
		if !strings.HasPrefix(name, journal.Dir) { // nothing says that a newest generation was there
			w.damaged(name, nil).holdsUp(t, fmt.Sprintf("closed %v, without %s", closed, name), tally)
			total["missing file"]++
		}
		t.Logf("closed %v: %s: %d damages: %v", closed, name, n, tally)
	}
	sum := 0
	for _, n := range total {
		sum += n
	}
	t.Logf("%v", total)
	t.Logf("crash: %d damaged files", sum)
}

// A page of a journal that can't be read back is an error of the request, and the store is
// read-only: the process lives. A file that has become shorter gives the same fault as a bad sector
// under a page that was dropped.
func TestJournalPageLost(t *testing.T) {
	dir := t.TempDir() + "/store"
	must(t, Init(dir, InitOptions{}))
	s := openTest(t, dir, Options{SettleDelay: -1})
	_, err := s.CreateVolume(context.Background(), "v", VolumeOptions{Size: 1 << 20})
	must(t, err)
	v, err := s.OpenVolume("v", "test")
	must(t, err)
	_, err = v.WriteAt(randomBytes(1, 4096), 0)
	must(t, err)
	must(t, v.Flush())
	must(t, os.Truncate(dir+"/"+v.active().journal.Name(), journal.Offset(0)))
	for range 2 {
		if _, err := v.WriteAt(randomBytes(2, 4096), 8192); !errors.Is(err, ErrReadOnly) || !errors.Is(err, unix.EIO) {
			t.Fatalf("write to a journal whose page is lost: %v", err)
		}
	}
	if err := v.Flush(); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("flush: %v", err)
	}
	wantRead(t, v, 0, randomBytes(1, 4096))
	if st, err := s.Stat(); err != nil || !strings.Contains(st.ReadOnly, "journal/") {
		t.Fatalf("stat says read-only %q, %v", st.ReadOnly, err)
	}
	_ = v.Close()
	if err := s.Close(); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("close: %v", err)
	}
}

// A check beside writes, flushes, settling and snapshots finds nothing where there is nothing, and
// ends with the store.
func TestCheckBesideWrites(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir() + "/store"
	must(t, Init(dir, InitOptions{}))
	s := openTest(t, dir, Options{SegmentSize: smallestSegment, SettleDelay: time.Millisecond, TailSoft: 1 << 20})
	var vols []*Volume
	for _, name := range []string{"a", "b"} {
		_, err := s.CreateVolume(ctx, name, VolumeOptions{Size: 16 << 20})
		must(t, err)
		v, err := s.OpenVolume(name, "test")
		must(t, err)
		vols = append(vols, v)
	}
	done := make(chan struct{})
	var writers sync.WaitGroup
	for i, v := range vols {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				time.Sleep(time.Millisecond) // checks are to keep up
				p := randomBytes(rng.Uint64(), 512+rng.IntN(64)*512)
				if _, err := v.WriteAt(p, rng.Int64N(30000)*512); err != nil {
					t.Error(err)
				}
				if n%5 == 0 {
					if err := v.Flush(); err != nil {
						t.Error(err)
					}
				}
				if n%100 == 0 {
					if _, err := s.CreateSnapshot(ctx, "a", fmt.Sprintf("s%d-%d", i, n)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 8 {
		r, err := s.Check(ctx, nil)
		must(t, err)
		if len(r.Damage) > 0 {
			t.Fatalf("a check beside writes: %+v", r.Damage)
		}
	}
	close(done)
	writers.Wait()
	checked := make(chan error, 1)
	begun := make(chan struct{})
	var once sync.Once
	go func() {
		for {
			if _, err := s.Check(ctx, func(CheckProgress) { once.Do(func() { close(begun) }) }); err != nil {
				checked <- err
				return
			}
			once.Do(func() { close(begun) })
		}
	}()
	<-begun
	for _, v := range vols {
		must(t, v.Close())
	}
	must(t, s.Close())
	if err := <-checked; !errors.Is(err, context.Canceled) {
		t.Errorf("a check of a store that was closed: %v", err)
	}
}
