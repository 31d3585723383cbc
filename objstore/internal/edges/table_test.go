package edges

import (
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// A table is a map. The keys collide: they share few homes, at the ends of two shards too.
func TestTable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var tab table
		want := map[uint64]uint32{}
		var keys []uint64
		for _, shard := range []uint64{0, shards - 1} {
			for i := range uint64(24) {
				keys = append(keys, shard<<(64-shardBits)|i%3*((1<<(64-shardBits)-1)/2)+i)
			}
		}
		for range rapid.IntRange(0, 300).Draw(rt, "steps") {
			k := rapid.SampledFrom(keys).Draw(rt, "key")
			n := rapid.SampledFrom([]uint32{0, 0, 1, 2, counted, counted + 1, 1 << 20}).Draw(rt, "count")
			if tab.set(k, n); n == 0 {
				delete(want, k)
			} else {
				want[k] = n
			}
		}
		if rapid.Bool().Draw(rt, "thin") {
			tab.thin(1)
			maps.DeleteFunc(want, func(k uint64, _ uint32) bool { return k&1 != 0 })
		}
		for _, k := range keys {
			if got := tab.get(k); got != want[k] {
				rt.Fatalf("count of %x: %d, want %d", k, got, want[k])
			}
		}
		if tab.n != len(want) {
			rt.Fatalf("%d keys, want %d", tab.n, len(want))
		}
	})
}

// What the package comment says of memory.
func TestTableMemory(t *testing.T) {
	var tab table
	r := rand.New(rand.NewPCG(1, 2))
	var most float64
	for i := range 1 << 20 {
		tab.set(r.Uint64(), 1)
		if i > 1<<18 {
			most = max(most, float64(tab.bytes())/float64(tab.n))
		}
	}
	if most > 14 || float64(tab.bytes())/float64(tab.n) < slotBytes {
		t.Errorf("%.1f bytes a key at most", most)
	}
}
