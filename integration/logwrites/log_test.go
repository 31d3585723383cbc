package logwrites

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// writer makes a log as the target does.
type writer struct {
	b bytes.Buffer
	n uint64
}

func (w *writer) add(sector, sectors, flags uint64, data []byte) {
	h := make([]byte, SectorSize)
	le.PutUint64(h, sector)
	le.PutUint64(h[8:], sectors)
	le.PutUint64(h[16:], flags)
	if flags&flagMark != 0 {
		le.PutUint64(h[24:], uint64(len(data)))
		copy(h[entryHeader:], data)
		data = nil
	}
	w.b.Write(h)
	w.b.Write(data)
	w.n++
}

func (w *writer) write(sector uint64, flags uint64, fill byte, sectors int) {
	w.add(sector, uint64(sectors), flags, bytes.Repeat([]byte{fill}, sectors*SectorSize))
}

func (w *writer) bytes() []byte {
	super := make([]byte, SectorSize)
	le.PutUint64(super, magic)
	le.PutUint64(super[8:], version)
	le.PutUint64(super[16:], w.n)
	le.PutUint32(super[24:], SectorSize)
	return append(super, w.b.Bytes()...)
}

type memDisk []byte

func (d memDisk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }
func (d memDisk) Zero(off, n int64) error                  { clear(d[off : off+n]); return nil }

// example: two batches, a FUA write between them, a mark, and what was never flushed.
func example(t testing.TB) *Log {
	var w writer
	w.write(0, 0, 1, 4)         // 0
	w.write(4, flagMeta, 2, 4)  // 1
	w.add(0, 0, flagFlush, nil) // 2
	w.write(8, flagFUA, 3, 2)   // 3
	w.add(0, 0, flagMark, []byte("seven"))
	w.write(2, 0, 4, 4)           // 5
	w.add(6, 4, flagDiscard, nil) // 6
	w.add(0, 0, flagFlush, nil)   // 7
	w.write(12, 0, 5, 1)          // 8
	l, err := Read(bytes.NewReader(w.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sectors returns one digit for each sector.
func (d memDisk) sectors() string {
	out := make([]byte, 0, len(d)/SectorSize)
	for i := 0; i < len(d); i += SectorSize {
		out = append(out, '0'+d[i])
	}
	return string(out)
}

func TestRead(t *testing.T) {
	l := example(t)
	if len(l.Entries) != 9 || l.Entries[4].Mark != "seven" || !l.Entries[3].FUA || !l.Entries[6].Discard || !l.Entries[7].Flush {
		t.Fatalf("entries %+v", l.Entries)
	}
	for to, want := range []string{
		"0000000000000", "1111000000000", "1111222200000", "1111222200000", "1111222233000", "1111222233000",
		"1144442233000", "1144440000000", "1144440000000", "1144440000005",
	} {
		d := make(memDisk, 13*SectorSize)
		if err := l.Apply(d, 0, to); err != nil {
			t.Fatal(err)
		}
		if got := d.sectors(); got != want {
			t.Errorf("after %d entries: %s, want %s", to, got, want)
		}
	}
}

func TestBatch(t *testing.T) {
	l := example(t)
	for i, want := range [][2]int{{0, 2}, {0, 2}, {0, 2}, {3, 4}, {4, 5}, {5, 7}, {5, 7}, {5, 7}, {8, 9}} {
		if from, end := l.Batch(i); from != want[0] || end != want[1] {
			t.Errorf("batch of entry %d: %d to %d, want %v", i, from, end, want)
		}
	}
}

// Whatever a cut leaves: before the batch everything, behind it nothing, and each sector of it old
// or new.
func TestCut(t *testing.T) {
	l := example(t)
	seen := map[string]bool{}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		i, kind := r.IntN(len(l.Entries)), Kind(r.IntN(int(Kinds)))
		c := l.CutAt(i, kind, r)
		old, all, got := make(memDisk, 13*SectorSize), make(memDisk, 13*SectorSize), make(memDisk, 13*SectorSize)
		for _, err := range []error{l.Apply(old, 0, c.Durable), l.Apply(all, 0, c.End), l.Apply(got, 0, c.Durable), c.Apply(l, got)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for s := range 13 {
			b := got[s*SectorSize : (s+1)*SectorSize]
			if !bytes.Equal(b, old[s*SectorSize:(s+1)*SectorSize]) && !bytes.Equal(b, all[s*SectorSize:(s+1)*SectorSize]) &&
				(i < 5 || b[0] != 4) { // written, then discarded, in one batch
				t.Fatalf("seed %d, %v at %d: sector %d is neither old nor new: %s", seed, c, i, s, got.sectors())
			}
		}
		if kind == Clean && !bytes.Equal(old, got) {
			t.Fatalf("seed %d: a clean cut left more than what was durable", seed)
		}
		if c.Durable == 0 {
			seen[got.sectors()] = true
		}
		c2 := l.CutAt(i, kind, rand.New(rand.NewPCG(seed, 1)))
		if c2.Durable != c.Durable || c2.End != c.End {
			t.Fatal("the same seed gave another cut")
		}
	}
	for _, want := range []string{"0000000000000", "1111000000000", "0000222200000", "1111222200000", "1000000000000", "1111220000000", "1010000000000"} {
		if !seen[want] {
			t.Errorf("no cut left %s", want)
		}
	}
}

func TestReadDamaged(t *testing.T) {
	for name, spoil := range map[string]func(b []byte) []byte{
		"magic":       func(b []byte) []byte { b[0]++; return b },
		"version":     func(b []byte) []byte { b[8]++; return b },
		"sector size": func(b []byte) []byte { le.PutUint32(b[24:], 768); return b },
		"flags":       func(b []byte) []byte { b[SectorSize+16] = 0x80; return b },
		"length":      func(b []byte) []byte { le.PutUint64(b[SectorSize+8:], 1<<40); return b },
		"nothing":     func(b []byte) []byte { le.PutUint64(b[SectorSize+8:], 0); return b },
	} {
		var w writer
		w.write(0, 0, 1, 4)
		if _, err := Read(bytes.NewReader(spoil(w.bytes()))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want %v", name, err, ErrFormat)
		}
	}
	var w writer
	w.write(0, 0, 1, 4)
	w.add(0, 0, flagFlush, nil)
	if _, err := Read(bytes.NewReader(w.bytes()[:SectorSize*6])); err == nil {
		t.Error("a log that ends before its last entry was read")
	}
}

func FuzzRead(f *testing.F) {
	var w writer
	w.write(0, 0, 1, 4)
	w.add(0, 0, flagMark, []byte("mark"))
	w.add(0, 0, flagFlush, nil)
	f.Add(w.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i := range l.Entries {
			if from, end := l.Batch(i); from > i || end < from {
				t.Fatalf("batch of entry %d: %d to %d", i, from, end)
			}
			_, _ = l.Data(i, nil) // it may lie past the end
		}
	})
}
