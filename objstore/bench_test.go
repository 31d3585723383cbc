package objstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

func benchVolume(b *testing.B, size int64) *Volume {
	dir := b.TempDir()
	must(b, Init(dir, InitOptions{}))
	s := openTest(b, dir, Options{SettleDelay: -1, TailSoft: 1 << 40, TailHard: 1 << 41, JournalRecords: 64 << 20})
	b.Cleanup(func() { must(b, s.Close()) })
	_, err := s.CreateVolume(context.Background(), "v", VolumeOptions{Size: size})
	must(b, err)
	v, err := s.OpenVolume("v", "bench")
	must(b, err)
	return v
}

// BenchmarkWrite is the engine's part of a random 4 KiB write: reserve, journal, live map; no I/O.
func BenchmarkWrite(b *testing.B) {
	v := benchVolume(b, 1<<30)
	r := rand.New(rand.NewPCG(1, 2))
	var w Write
	b.ReportAllocs()
	for b.Loop() {
		off := r.Int64N(1<<18) * 4096
		for {
			err := v.Reserve(off, 4096, &w)
			if err == nil {
				break
			}
			if !errors.Is(err, ErrBusy) {
				b.Fatal(err)
			}
			must(b, v.Wait(context.Background(), off, 4096, false))
		}
		if err := v.Commit(&w); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPlan is the engine's part of a random 4 KiB read, of written and of settled data; no
// I/O.
func BenchmarkPlan(b *testing.B) {
	for _, settled := range []bool{false, true} {
		name := "live"
		if settled {
			name = "settled"
		}
		b.Run(name, func(b *testing.B) {
			const size = 64 << 20
			v := benchVolume(b, size)
			for off := int64(0); off < size; off += 1 << 20 {
				_, err := v.WriteAt(randomBytes(uint64(off>>20), 1<<20), off)
				must(b, err)
			}
			if settled {
				must(b, v.s.Settle(context.Background()))
			}
			must(b, v.Load(context.Background(), 0, size))
			r := rand.New(rand.NewPCG(1, 2))
			var p Plan
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Plan(r.Int64N(size/4096)*4096, 4096, &p); err != nil {
					b.Fatal(err)
				}
				v.Release(&p)
			}
		})
	}
}
