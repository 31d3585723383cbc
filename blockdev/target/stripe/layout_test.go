package stripe

import (
	"testing"

	"pgregory.net/rapid"
)

// A range of the disk is made of its pieces, and the share of each leg is exactly those pieces that
// are on it: in a row, and disjoint from everything else.
func TestLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := set{legs: rapid.IntRange(MinLegs, 7).Draw(t, "legs"), chunk: MinChunkSize << rapid.IntRange(0, 3).Draw(t, "chunk")}
		s.leg = s.chunk * rapid.Int64Range(1, 9).Draw(t, "chunks")
		const sector = 512
		sectors := s.size() / sector
		off := rapid.Int64Range(0, sectors-1).Draw(t, "off")
		n := rapid.Int64Range(1, sectors-off).Draw(t, "n")
		off, n = off*sector, n*sector

		onLeg := make([][2]int64, s.legs) // from, to
		for done := int64(0); done < n; {
			leg, at, length := s.piece(off+done, n-done)
			if length <= 0 || length > n-done || at < DataOffset || at+length > DataOffset+s.leg || leg < 0 || leg >= s.legs {
				t.Fatalf("the piece at %d is %d bytes of leg %d at %d", off+done, length, leg, at)
			}
			if onLeg[leg][1] == 0 {
				onLeg[leg][0] = at
			} else if onLeg[leg][1] != at {
				t.Fatalf("leg %d goes on at %d after %d", leg, at, onLeg[leg][1])
			}
			onLeg[leg][1] = at + length
			done += length
		}
		for leg, want := range onLeg {
			at, length := s.share(off, n, leg)
			if length != want[1]-want[0] || length != 0 && at != want[0] {
				t.Errorf("%d bytes at %d: the share of leg %d is %d at %d, want %v", n, off, leg, length, at, want)
			}
		}
	})
}

// Each byte of the disk has a place of its own.
func TestLayoutIsOneToOne(t *testing.T) {
	s := set{legs: 3, chunk: MinChunkSize, leg: 4 * MinChunkSize}
	seen := map[[2]int64]bool{}
	for off := int64(0); off < s.size(); off += 512 {
		leg, at, _ := s.piece(off, 1)
		seen[[2]int64{int64(leg), at}] = true
	}
	if n := s.size() / 512; int64(len(seen)) != n {
		t.Errorf("%d places of %d sectors", len(seen), n)
	}
}
