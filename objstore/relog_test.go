package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"varve/objstore/index"
	"varve/objstore/internal/merkle"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// relogWorld is a store in memory with a settled volume of 8 chunks, of which number 2 gets
// damaged.
type relogWorld struct {
	*rig
	v    *Volume
	data []byte
	undo func()
}

const relogChunk = 16384

func newRelogWorld(t *testing.T) *relogWorld {
	w := &relogWorld{rig: newRig(t, Options{SettleDelay: -1}), data: randomBytes(1, 8*relogChunk)}
	must(t, w.s.Close())
	w.mem, w.o.Index = vfs.NewMem(0), index.NewMem()
	must(t, initFS(w.mem, "mem", InitOptions{ChunkSize: relogChunk}))
	w.open(nil)
	w.v = w.volume("v", int64(len(w.data)))
	w.write(w.v, w.data, 0)
	must(t, w.s.Settle(t.Context()))
	var p Plan
	must(t, planLoaded(t.Context(), w.v, 2*relogChunk, SectorSize, &p))
	name, off := segment.Name(p.Pieces[0].seg.ID), p.Pieces[0].FileOff
	w.v.Release(&p)
	flip := func() {
		f, err := w.mem.Open(name)
		must(t, err)
		b := make([]byte, 1)
		_, err = f.ReadAt(b, off+100)
		must(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b, off+100)
		must(t, err)
		must(t, f.Datasync())
		must(t, f.Close())
	}
	flip()
	w.undo = flip
	return w
}

// put writes, and knows what has to be there.
func (w *relogWorld) put(seed uint64, off, n int) {
	w.t.Helper()
	p := randomBytes(seed, n)
	copy(w.data[off:], p)
	w.write(w.v, p, int64(off))
}

// check reads what is not damaged: all but the first part of chunk 2, up to where it was written.
func (w *relogWorld) check(from int) {
	w.t.Helper()
	wantRead(w.t, w.v, 0, w.data[:2*relogChunk])
	wantRead(w.t, w.v, int64(from), w.data[from:3*relogChunk-4096])
	wantRead(w.t, w.v, 3*relogChunk, w.data[3*relogChunk:])
}

// tail counts the sectors that have not settled.
func (w *relogWorld) tail() int {
	w.t.Helper()
	n := 0
	for off := int64(0); off < int64(len(w.data)); off += SectorSize {
		var p Plan
		must(w.t, planLoaded(context.Background(), w.v, off, SectorSize, &p))
		if !p.Pieces[0].settled {
			n++
		}
		w.v.Release(&p)
	}
	return n
}

// again opens the store after a crash, or after an orderly end.
func (w *relogWorld) again(how string) {
	w.t.Helper()
	if how == "closed" {
		must(w.t, w.v.Close())
	}
	w.end(how)
	w.open(nil)
	w.v = w.volume("v", 0)
}

// A chunk that is damaged and written in part keeps nothing from settling, gets no new hash over
// the damage, and has what was written stay over it, also after crashes; until it is written whole.
func TestPartOfDamagedChunk(t *testing.T) {
	for _, how := range []string{"closed", "killed", "power cut"} {
		t.Run(how, func(t *testing.T) {
			w := newRelogWorld(t)
			hash := w.chunkHash(2)
			w.put(2, 2*relogChunk+4096, 4096)
			w.put(3, 2*relogChunk+6144, 1536) // over a part of it, and in the middle of a block
			w.put(4, 5*relogChunk+512, 512)
			must(t, w.v.Flush())
			gen := w.v.baseGen
			for range 3 {
				err := w.s.Settle(t.Context())
				var bad *CorruptError
				if !errors.As(err, &bad) || !strings.Contains(bad.Object, "sectors 64 to 95 of volume v") || !strings.Contains(err.Error(), "write all of it") {
					t.Fatalf("settling over a damaged chunk: %v", err)
				}
				if w.v.baseGen == gen || w.chunkHash(2) != hash || w.tail() != 4096/SectorSize {
					t.Fatalf("generation %d after %d, hash %v, before %v, a tail of %d sectors", w.v.baseGen, gen, w.chunkHash(2), hash, w.tail())
				}
				gen = w.v.baseGen
				w.check(2*relogChunk + 4096)
				if _, err := w.s.CreateSnapshot(t.Context(), "v", "s"); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("snapshot of a volume with a damaged chunk: %v", err)
				}
				w.again(how)
				w.check(2*relogChunk + 4096)
			}
			if w.v.active().fresh || w.s.settler.due(w.v.volume) {
				t.Error("what is kept is due to settle, again and again")
			}
			w.put(5, 2*relogChunk, relogChunk)
			_, err := w.s.CreateSnapshot(t.Context(), "v", "s")
			must(t, err)
			_, err = w.s.WaitSnapshot(t.Context(), "v", "s")
			must(t, err)
			must(t, w.s.Settle(t.Context()))
			wantRead(t, w.v, 0, w.data)
			if n := w.tail(); n != 0 {
				t.Errorf("%d sectors have not settled", n)
			}
			w.again(how)
			wantRead(t, w.v, 0, w.data)
		})
	}
}

func (w *relogWorld) chunkHash(i int) merkle.Hash {
	n, err := w.s.leaves.hashes(w.t.Context(), &w.v.base.root, 0)
	must(w.t, err)
	return n[i]
}

// A snapshot that waits to settle has what it needs kept for it, and the layer with it; when it is
// gone, or the disk is well again, all goes on.
func TestSnapshotOfDamagedChunk(t *testing.T) {
	for _, well := range []bool{false, true} {
		w := newRelogWorld(t)
		w.put(2, 2*relogChunk+8192, 4096)
		_, err := w.s.CreateSnapshot(t.Context(), "v", "s")
		must(t, err)
		want := bytes.Clone(w.data[2*relogChunk+8192 : 2*relogChunk+8192+4096])
		if _, err := w.s.WaitSnapshot(t.Context(), "v", "s"); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("a snapshot with a damaged chunk that was written in part: %v", err)
		}
		w.put(3, 2*relogChunk+8192, 1024)
		view, err := w.s.OpenSnapshot("v", "s")
		must(t, err)
		wantRead(t, view, 2*relogChunk+8192, want)
		if well {
			w.undo()
			must(t, w.s.Settle(t.Context()))
			wantRead(t, view, 2*relogChunk+8192, want)
			wantRead(t, w.v, 0, w.data)
			must(t, view.Close())
			continue
		}
		must(t, w.s.DeleteSnapshot(t.Context(), "v", "s"))
		if err := w.s.Settle(t.Context()); !errors.Is(err, ErrCorrupt) || w.v.baseGen != 1 {
			t.Fatalf("settling past a snapshot that is read: %v, generation %d", err, w.v.baseGen)
		}
		wantRead(t, view, 2*relogChunk+8192, want)
		must(t, view.Close())
		if err := w.s.Settle(t.Context()); !errors.Is(err, ErrCorrupt) || w.v.baseGen < 3 {
			t.Fatalf("settling past a snapshot that is gone: %v, generation %d", err, w.v.baseGen)
		}
		w.check(2*relogChunk + 8192)
		must(t, w.v.Zero(2*relogChunk, relogChunk))
		clear(w.data[2*relogChunk : 3*relogChunk])
		must(t, w.s.Settle(t.Context()))
		wantRead(t, w.v, 0, w.data)
	}
}

// Random writes and holes over two damaged chunks, with settling at any time, and a crash at the
// end: nothing that was flushed is lost, and nothing of the damage is seen.
func TestRelogLong(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newRelogWorld(t)
			written := map[int]bool{}
			for range 40 {
				at := 2*relogChunk - 2048 + rng.IntN(40)*SectorSize
				n := (1 + rng.IntN(9)) * SectorSize
				if rng.IntN(4) == 0 {
					must(t, w.v.Zero(int64(at), int64(n)))
					clear(w.data[at : at+n])
				} else {
					w.put(rng.Uint64(), at, n)
				}
				for s := at; s < at+n; s += SectorSize {
					written[s] = true
				}
				switch rng.IntN(6) {
				case 0:
					_ = w.s.Settle(t.Context()) // what it says is tried elsewhere
				case 1:
					_, err := w.v.freeze()
					must(t, err)
				}
			}
			must(t, w.v.Flush())
			for _, how := range []string{"as it is", "killed", "power cut", "closed"} {
				if how != "as it is" {
					w.again(how)
				}
				for off := 0; off < len(w.data); off += SectorSize {
					if written[off] || off/relogChunk != 2 {
						wantRead(t, w.v, int64(off), w.data[off:off+SectorSize])
					}
				}
				if t.Failed() {
					t.Fatal(how)
				}
				_ = w.s.Settle(t.Context())
			}
			w.put(9, 2*relogChunk, relogChunk)
			must(t, w.s.Settle(t.Context()))
			wantRead(t, w.v, 0, w.data)
		})
	}
}

// A power cut, or a kill, at each operation of a settling that keeps a chunk: what was flushed is
// there.
func TestEveryCutOfRelogging(t *testing.T) {
	cuts := 0
	for n := int64(0); ; n++ {
		w := newRelogWorld(t)
		w.put(2, 2*relogChunk+4096, 4096)
		w.put(3, 2*relogChunk+6144, 512)
		w.put(4, 5*relogChunk, 4096)
		must(t, w.v.Flush())
		w.mem.CutAt(w.mem.Ops() + n/2)
		for range 2 {
			_ = w.s.Settle(t.Context())
		}
		done := !w.mem.WasCut()
		cuts++
		w.again([]string{"power cut", "killed"}[n%2])
		w.check(2*relogChunk + 4096)
		if err := w.s.Settle(t.Context()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("settling after a crash at operation %d: %v", n, err)
		}
		w.check(2*relogChunk + 4096)
		w.put(5, 2*relogChunk, relogChunk)
		must(t, w.s.Settle(t.Context()))
		wantRead(t, w.v, 0, w.data)
		must(t, w.v.Close())
		must(t, w.s.Close())
		if t.Failed() {
			t.Fatalf("crash at operation %d", n)
		}
		if done {
			break
		}
	}
	if cuts < 20 {
		t.Fatalf("%d cuts: too few operations", cuts)
	}
	t.Logf("crash: %d cuts", cuts)
}

// A damaged chunk is good again when it is written whole, also with the bytes that it had; it
// doesn't matter whether who reads it knew its place before it was found bad.
func TestDamagedChunkWrittenAgain(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		w := newRelogWorld(t)
		_, err := w.s.Check(t.Context(), nil)
		must(t, err)
		if forgotten {
			w.v.mu.Lock()
			w.v.base.drop()
			w.v.mu.Unlock()
		}
		if _, err := w.v.ReadAt(make([]byte, relogChunk), 2*relogChunk); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("read of a damaged chunk: %v", err)
		}
		w.write(w.v, w.data[2*relogChunk:3*relogChunk], 2*relogChunk)
		must(t, w.s.Settle(t.Context()))
		wantRead(t, w.v, 0, w.data)
		w.again("closed")
		wantRead(t, w.v, 0, w.data)
	}
}

// Who knew the place of a chunk when it was found bad reads it from another one when there is one,
// or from the same when it is good again.
func TestDamagedChunkElsewhere(t *testing.T) {
	for _, how := range []string{"written again", "good again"} {
		w := newRelogWorld(t)
		_, err := w.s.CreateSnapshot(t.Context(), "v", "s")
		must(t, err)
		view, err := w.s.OpenSnapshot("v", "s")
		must(t, err)
		early := make([]byte, len(w.data))
		_, err = view.ReadAt(early, 0)
		must(t, err)
		_, err = w.s.Check(t.Context(), nil)
		must(t, err)
		late, err := w.s.OpenSnapshot("v", "s")
		must(t, err)
		for _, im := range []*View{view, late} {
			if _, err := im.ReadAt(early, 0); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: read of a damaged chunk: %v", how, err)
			}
		}
		if how == "written again" {
			w.write(w.v, w.data[2*relogChunk:3*relogChunk], 2*relogChunk)
			must(t, w.s.Settle(t.Context()))
		} else {
			w.undo()
			report, err := w.s.Check(t.Context(), nil)
			if err != nil || report.Damaged() > 0 {
				t.Fatalf("%v, %+v", err, report.Damage)
			}
		}
		for name, im := range map[string]Image{"early": view, "late": late, "live": w.v} {
			got := make([]byte, len(w.data))
			if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, w.data) {
				t.Errorf("%s, %s reader: %v", how, name, err)
			}
		}
		must(t, view.Close())
		must(t, late.Close())
	}
}

// The same where the place is no more than suspect, since a checked read has found it so: nobody
// else is kept from it.
func TestSuspectChunkElsewhere(t *testing.T) {
	w := newRelogWorld(t)
	_, err := w.s.SetVerify(t.Context(), "v", true)
	must(t, err)
	_, err = w.s.CreateSnapshot(t.Context(), "v", "s")
	must(t, err)
	view, err := w.s.OpenSnapshot("v", "s")
	must(t, err)
	got := make([]byte, len(w.data))
	if _, err := view.ReadAt(got, 0); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a damaged chunk: %v", err)
	}
	w.write(w.v, w.data[2*relogChunk:3*relogChunk], 2*relogChunk)
	must(t, w.s.Settle(t.Context()))
	for name, im := range map[string]Image{"view": view, "live": w.v} {
		if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, w.data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, view.Close())
}

// A chunk that was lost is there again when any volume writes its bytes.
func TestDamagedChunkOfAnother(t *testing.T) {
	w := newRelogWorld(t)
	_, err := w.s.Check(t.Context(), nil)
	must(t, err)
	if _, err := w.v.ReadAt(make([]byte, relogChunk), 2*relogChunk); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of a damaged chunk: %v", err)
	}
	other := w.volume("other", int64(len(w.data)))
	w.write(other, w.data[2*relogChunk:3*relogChunk], 0)
	must(t, w.s.Settle(t.Context()))
	wantRead(t, w.v, 0, w.data)
}

// What was written again in place of a damaged chunk is what is read when the store opens again,
// also if it lies in an older segment.
func TestDamagedChunkInOlderSegment(t *testing.T) {
	for _, anew := range []bool{false, true} { // the index
		w := newRelogWorld(t)
		early := w.volume("early", relogChunk)
		w.write(early, randomBytes(4, 4096), 4096) // a part of a chunk: settling copies it, and goes on in that segment
		must(t, w.s.Settle(t.Context()))
		late := w.volume("late", int64(len(w.data)))
		data := randomBytes(5, len(w.data))
		w.write(late, data, 0)
		must(t, w.s.Settle(t.Context()))
		_, err := w.s.SetVerify(t.Context(), "late", true)
		must(t, err)
		seg, off := locationOf(t, late, 2*relogChunk)
		flip(t, w.mem, segment.Name(seg), off+100)
		if _, err := late.ReadAt(make([]byte, relogChunk), 2*relogChunk); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("read of a damaged chunk: %v", err)
		}
		for _, at := range []int{2*relogChunk + 8192, 2 * relogChunk, 2*relogChunk + 4096, 2*relogChunk + 12288} { // in pieces: it is copied
			w.write(late, data[at:at+4096], int64(at))
		}
		must(t, w.s.Settle(t.Context()))
		wantRead(t, late, 0, data)
		if now, _ := locationOf(t, late, 2*relogChunk); now >= seg {
			t.Fatalf("it lies in segment %d, and was in %d", now, seg)
		}
		must(t, late.Close())
		if anew {
			w.o.Index = index.NewMem()
		}
		for range 2 {
			w.again("closed")
			late = w.volume("late", 0)
			wantRead(t, late, 0, data)
			must(t, late.Close())
		}
	}
}
