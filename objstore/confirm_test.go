package objstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/object"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// rot damages what a volume has settled at off.
func (r *rig) rot(v *Volume, off int64) {
	r.t.Helper()
	seg, at := locationOf(r.t, v, off)
	flip(r.t, r.mem, segment.Name(seg), at+100)
}

// What was written is not dropped for a copy that has rotted, however the store comes upon that
// copy: it reads the same after it has settled, and after a check and another opening.
func TestRottenCopyReplacesNothing(t *testing.T) {
	data := randomBytes(1, 1<<20) // a leaf
	cases := map[string]func(r *rig, a, b *Volume){
		"another volume": func(r *rig, a, b *Volume) {
			r.rot(a, 8192)
			r.write(b, data, 0)
		},
		"in pieces": func(r *rig, a, b *Volume) {
			r.rot(a, 8192)
			for off := int64(0); off < 1<<20; off += 512 {
				r.write(b, data[off:off+512], off)
			}
		},
		"over itself": func(r *rig, a, _ *Volume) {
			r.rot(a, 8192)
			r.write(a, data, 0)
		},
		"a tree node": func(r *rig, a, b *Volume) {
			r.flipAt(r.leafNode(a, 0))
			r.write(b, data, 0)
		},
		"verify, and it was good before": func(r *rig, a, b *Volume) {
			_, err := r.s.SetVerify(r.t.Context(), "b", true)
			must(r.t, err)
			r.write(b, data, 0)
			must(r.t, r.s.Settle(r.t.Context()))
			must(r.t, b.Zero(0, 1<<20))
			must(r.t, r.s.Settle(r.t.Context()))
			r.rot(a, 8192)
			r.write(b, data, 0)
		},
	}
	for name, harm := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			a, b := r.volume("a", 1<<20), r.volume("b", 1<<20)
			r.write(a, data, 0)
			must(t, r.s.Settle(t.Context()))
			harm(r, a, b)
			v, which := b, "b"
			if name == "over itself" {
				v, which = a, "a"
			}
			must(t, v.Flush())
			wantRead(t, v, 0, data)
			must(t, r.s.Settle(t.Context()))
			for range 2 {
				wantRead(t, v, 0, data)
				report, err := r.s.Check(t.Context(), nil)
				must(t, err)
				for _, d := range report.Damage {
					if len(d.Affects) > 0 {
						t.Errorf("check: %+v", d)
					}
				}
				must(t, a.Close())
				must(t, b.Close())
				must(t, r.s.Close())
				r.open(nil)
				a, b = r.volume("a", 0), r.volume("b", 0)
				if v = b; which == "a" {
					v = a
				}
			}
			wantRead(t, a, 0, data) // it has all that was written anew, too
		})
	}
}

// A copy that the disk does not give is not pointed to either.
func TestUnreadableCopyReplacesNothing(t *testing.T) {
	r := newRig(t, Options{})
	a := r.volume("a", 1<<20)
	data := randomBytes(1, 4096)
	r.write(a, data, 0)
	must(t, r.s.Settle(t.Context()))
	seg, off := locationOf(t, a, 0)
	must(t, a.Close())
	must(t, r.s.Close())
	r.open(func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && op.Name == segment.Name(seg) && op.Off <= off && off < op.Off+op.Len {
			return unix.EIO
		}
		return nil
	})
	b := r.volume("b", 1<<20)
	r.write(b, data, 0)
	must(t, r.s.Settle(t.Context()))
	wantRead(t, b, 0, data)
	if now, at := locationOf(t, b, 0); now == seg && at == off {
		t.Error("it lies where the disk does not give it")
	}
}

// Confirming costs one read for copies that lie one after the other, and within an hour nothing; on
// a volume with verify, as much each time.
func TestConfirmingIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 4 << 20
		var reads, readBytes atomic.Int64
		r := newRig(t, Options{TailSoft: 1 << 30, TailHard: 2 << 30})
		data := randomBytes(1, size)
		a := r.volume("a", size)
		r.write(a, data, 0)
		must(t, r.s.Settle(t.Context()))
		must(t, a.Close())
		must(t, r.s.Close())
		r.open(nil)
		must(t, r.s.Close())
		var logs atomic.Pointer[string] // what is written now lies in a segment that is not there yet
		r.open(func(op vfs.Op) error {
			if name := logs.Load(); name != nil && op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, ".seg") && op.Name < *name && op.Len >= disk.BlockSize {
				reads.Add(1)
				readBytes.Add(op.Len)
			}
			return nil
		})
		b := r.volume("b", size)
		_, err := r.s.footers.Get(r.s.segments.All()[0]) // the records are no part of the cost
		must(t, err)
		again := func(what string, wantBytes, most int64) {
			t.Helper()
			r.write(b, data, 0)
			name := segment.Name(b.appendSegment.ID)
			logs.Store(&name)
			reads.Store(0)
			readBytes.Store(0)
			must(t, r.s.Settle(t.Context()))
			if reads.Load() > most || readBytes.Load() < wantBytes || readBytes.Load() > wantBytes+wantBytes/4 {
				t.Errorf("%s: %d reads of %d bytes, want at most %d of about %d", what, reads.Load(), readBytes.Load(), most, wantBytes)
			}
			must(t, b.Zero(0, size))
			must(t, r.s.Settle(t.Context()))
		}
		again("the first hits", size, 3*size>>20+16)
		again("hits within an hour", 0, 0)
		time.Sleep(object.VerifiedFor + time.Minute)
		again("hits later", size, 3*size>>20+16)
		_, err = r.s.SetVerify(t.Context(), "b", true)
		must(t, err)
		for range 2 {
			again("hits of a volume with verify", size, 3*size>>20+16)
		}
		must(t, b.Close())
		must(t, r.s.Close())
	})
}

// rotWorld has volumes of 16 chunks and knows what each chunk has to be, and which may read wrong:
// those that had settled to a copy when it rotted.
type rotWorld struct {
	*rig
	vols    [3]*Volume
	content [3][16][]byte
	excused [3][16]bool
}

func (w *rotWorld) each(f func(v, c int)) {
	for v := range w.vols {
		for c := range 16 {
			f(v, c)
		}
	}
}

func (w *rotWorld) open() {
	w.rig.open(nil)
	for v := range w.vols {
		w.vols[v] = w.volume(fmt.Sprint("v", v), 16*4096)
	}
}

// rotOne damages the copy that a settled chunk lies in.
func (w *rotWorld) rotOne(v, c int) {
	at := func(v, c int) segment.Location {
		var p Plan
		must(w.t, planLoaded(w.t.Context(), w.vols[v], int64(c)*4096, 4096, &p))
		defer w.vols[v].Release(&p)
		if len(p.Pieces) != 1 || !p.Pieces[0].settled || p.Pieces[0].Hole {
			return 0
		}
		return segment.At(p.Pieces[0].seg.ID, uint32(p.Pieces[0].FileOff/disk.BlockSize))
	}
	if w.excused[v][c] {
		return // it may not even be planned
	}
	loc := at(v, c)
	if loc == 0 {
		return
	}
	w.each(func(i, j int) {
		if !w.excused[i][j] && at(i, j) == loc {
			defer func() { w.excused[i][j] = true }()
		}
	})
	flip(w.t, w.mem, segment.Name(loc.Segment()), loc.Offset()+77)
	w.s.objects.Verified.Forget(loc) // as if it had been good long ago
}

func (w *rotWorld) check(what string) {
	w.t.Helper()
	got := make([]byte, 4096)
	w.each(func(v, c int) {
		_, err := w.vols[v].ReadAt(got, int64(c)*4096)
		good := err == nil && bytes.Equal(got, w.content[v][c])
		if !good && !w.excused[v][c] {
			w.t.Fatalf("%s: chunk %d of volume %d reads wrong: %v", what, c, v, err)
		}
		if !good && err != nil && !errors.Is(err, ErrCorrupt) {
			w.t.Fatalf("%s: chunk %d of volume %d: %v", what, c, v, err)
		}
	})
}

// Random writes of few contents to several volumes, with rot before they settle, and openings: what
// was written after a copy has rotted, or had not settled to it, is read as it was written.
func TestRotLong(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 5))
		w := &rotWorld{rig: newRig(t, Options{})}
		must(t, w.s.Close())
		w.open()
		w.each(func(v, c int) { w.content[v][c] = make([]byte, 4096) })
		for range 150 {
			v, c := rng.IntN(3), rng.IntN(16)
			switch rng.IntN(10) {
			case 0:
				w.rotOne(v, c)
			case 1:
				must(t, w.s.Settle(t.Context()))
				w.check("settled")
			case 2:
				if rng.IntN(4) == 0 {
					_, err := w.s.Check(t.Context(), nil)
					must(t, err)
				}
				for _, v := range w.vols {
					must(t, v.Close())
				}
				must(t, w.s.Close())
				w.open()
				w.check(fmt.Sprint("opened again, seed ", seed))
			default:
				n := min(1+rng.IntN(4), 16-c)
				for i := range n {
					p := randomBytes(rng.Uint64N(12)+1, 4096)
					w.content[v][c+i], w.excused[v][c+i] = p, false
					w.write(w.vols[v], p, int64(c+i)*4096)
				}
			}
		}
		must(t, w.s.Settle(t.Context()))
		w.check(fmt.Sprint("in the end, seed ", seed))
		must(t, w.s.Close())
	}
}
