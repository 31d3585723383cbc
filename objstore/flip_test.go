package objstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// flip changes one bit of a file, on the disk and in the cache.
func flip(t *testing.T, fs *vfs.Mem, name string, off int64) {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 1 << (off % 8)
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Datasync())
	must(t, f.Close())
}

// flipWorld is a store with flushed and settled volumes, that was closed (or killed: every write
// was flushed).
func flipWorld(t *testing.T, closed bool) *world {
	w := fixedWorld(t, 3)
	w.init()
	w.fixedCreate("a", 1<<20, 512)
	w.fixedCreate("b", 1<<20, 512)
	w.fixedWrite("a", 0, 300000, 1)
	w.fixedWrite("b", 0, 300000, 1)
	w.opSettle()
	w.fixedSnap("a", "one")
	for i := range 20 {
		w.fixedWrite("b", int64(i)*50000, 5000+300*i, uint64(10+i))
		w.fixedFlush("b")
	}
	w.fixedZero("b", 500000/512*512, 10240)
	w.fixedWrite("a", 600000, 4096*5, 3)
	w.fixedFlush("a")
	w.fixedFlush("b")
	w.endFixed(closed)
	return w
}

// endFixed closes the store, or kills it.
func (w *world) endFixed(closed bool) {
	if !closed {
		w.goDown(kill)
		return
	}
	w.must(w.stop())
	for _, v := range w.vols {
		v.flushed()
	}
}

// lookAt opens a damaged store and compares all of it with the model: all is right, or what is not
// is an error that says so. It gives what was found damaged.
func (w *world) lookAt() (damage []error, wrong string) {
	if err := w.start(); err != nil {
		return []error{err}, ""
	}
	defer func() { _ = w.stop() }()
	for _, name := range sortedKeys(w.vols) {
		v := w.vols[name]
		vol, err := w.s.OpenVolume(name, "test")
		if err != nil {
			damage = append(damage, err)
			continue
		}
		got := make([]byte, v.size)
		if _, err := vol.ReadAt(got, 0); err != nil {
			damage = append(damage, err)
			continue
		}
		if err := v.check(0, got, false); err != nil && wrong == "" {
			wrong = err.Error()
		}
		for sn := range v.snaps {
			view, err := w.s.OpenSnapshot(name, sn)
			if err != nil {
				damage = append(damage, err)
				continue
			}
			got := make([]byte, v.size)
			if _, err := view.ReadAt(got, 0); err != nil {
				damage = append(damage, err)
				continue
			}
			for i, s := range v.snaps[sn].content {
				if sectorOf(got[i*SectorSize:(i+1)*SectorSize]) != s && wrong == "" {
					wrong = fmt.Sprintf("snapshot %s@%s sector %d", name, sn, i)
				}
			}
		}
	}
	return damage, wrong
}

// One bit flipped anywhere in the store's own records: the store comes back whole, or it says what
// is damaged. It never serves something else for good.
func TestEveryFlip(t *testing.T) {
	stride := int64(97)
	if crashCuts(t, 0) > 0 {
		stride = 5
	}
	for _, closed := range []bool{true, false} {
		w := flipWorld(t, closed)
		for _, name := range w.metadata() {
			found, tried := 0, 0
			ranges := w.checkedRanges(name)
			for _, r := range ranges {
				for off := r[0]; off < r[1]; off += stride {
					clone := w.twin()
					flip(t, clone.mem, name, off)
					damage, wrong := clone.lookAt()
					tried++
					if wrong != "" && len(damage) == 0 {
						t.Errorf("closed %v: a bit flipped at byte %d of %s goes unseen: %s", closed, off, name, wrong)
					}
					for _, err := range damage {
						if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
							t.Errorf("closed %v: a bit flipped at byte %d of %s: %v", closed, off, name, err)
						}
					}
					if len(damage) > 0 {
						found++
					}
				}
			}
			t.Logf("closed %v: %s: %d flips, %d refused", closed, name, tried, found)
			t.Logf("crash: %d flipped bits", tried)
		}
	}
}

// twin is the same store on a copy of the disk.
func (w *world) twin() *world {
	c := &world{
		t: w.t, pick: w.pick, rng: newRand(1), mem: w.mem.Kill(), idx: w.idx, boot: w.boot, mount: w.mount,
		opts: w.opts, chunkSize: w.chunkSize, vols: w.vols, open: map[string]*Volume{}, counts: map[string]int{},
	}
	return c
}

// metadata lists the files whose bytes are checked.
func (w *world) metadata() []string {
	var names []string
	for _, dir := range []string{".", "refs", journal.Dir, segment.Dir} {
		list, err := w.mem.Kill().List(dir)
		w.must(err)
		for _, n := range list {
			if dir != "." {
				n = dir + "/" + n
			}
			if strings.Contains(n, "/") || strings.HasPrefix(n, "superblock") {
				names = append(names, n)
			}
		}
	}
	return names
}

// checkedRanges gives the parts of a file that are not data.
func (w *world) checkedRanges(name string) [][2]int64 {
	f, err := w.mem.Kill().Open(name)
	w.must(err)
	size, err := f.Size()
	w.must(err)
	if strings.HasSuffix(name, ".seg") {
		return [][2]int64{{0, 512}, {w.opts.SegmentSize, size}}
	}
	if strings.HasPrefix(name, journal.Dir) {
		return [][2]int64{{0, 512}, {journal.Offset(0), journal.Offset(60)}}
	}
	return [][2]int64{{0, size}}
}
