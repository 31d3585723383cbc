package past

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/golden"
	"varve/objstore/internal/merkle"
)

func goldenClock() Clock {
	return Clock{uuid.UUID{3: 9}, 7 * time.Hour, time.Unix(1700009000, 7).UTC()}
}

func goldenStates() []State {
	hash := func(b byte) merkle.Hash { return merkle.Hash(bytes.Repeat([]byte{b}, merkle.HashSize)) }
	at := time.Unix(1700000000, 5).UTC()
	other := uuid.UUID{15: 7}
	return []State{
		{Volume: other, Gen: 9, Root: hash(0xb1), Size: 1 << 20, Settled: at, At: at},
		{Volume: disktest.Volume, Gen: 3, Root: hash(0xb2), Size: 10 << 30, Logical: 16384, Settled: at, At: at.Add(time.Hour)},
		{Volume: disktest.Volume, Gen: 4, Root: hash(0xb3), Size: 11 << 30, Logical: 32768, Settled: at.AddDate(-60, 0, 0), At: at.Add(2 * time.Hour)},
	}
}

func TestGolden(t *testing.T) {
	want := goldenStates()
	b := Encode(disktest.Store, goldenClock(), want)
	golden.Check(t, "history", b)
	clock, got, damage := Decode(disktest.Store, b)
	if clock != goldenClock() || !slices.Equal(got, want) || damage != nil {
		t.Errorf("decoded as %+v, %v", got, damage)
	}
	slices.Reverse(want)
	if !bytes.Equal(Encode(disktest.Store, goldenClock(), want), b) {
		t.Error("the order of the states is part of the encoding")
	}
	golden.Check(t, "history-empty", Encode(disktest.Store, goldenClock(), nil))
}

// Damage costs the states that it lies in; each bit that flips is found.
func TestDamage(t *testing.T) {
	want := goldenStates()
	good := Encode(disktest.Store, goldenClock(), want)
	for bit := range len(good) * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		_, got, damage := Decode(disktest.Store, b)
		lost := -1
		if bit/8 >= HeaderSize {
			lost = (bit/8 - HeaderSize) / StateSize
		}
		for i, s := range want {
			if slices.Contains(got, s) != (i != lost) {
				t.Fatalf("bit %d: decoded as %+v", bit, got)
			}
		}
		if len(damage) != 1 || len(got) > len(want) {
			t.Fatalf("bit %d: damage %v, states %+v", bit, damage, got)
		}
	}
	for n := range good {
		_, got, damage := Decode(disktest.Store, good[:n])
		if whole := max(0, n-HeaderSize) / StateSize; !slices.Equal(got, want[:whole]) || len(damage) != 1 {
			t.Fatalf("cut to %d bytes: %d states, damage %v", n, len(got), damage)
		}
	}
	if _, _, damage := Decode(uuid.UUID{1}, good); len(damage) != 1 || !strings.Contains(damage[0].Error(), disktest.Store.String()) {
		t.Errorf("the history of another store: %v", damage)
	}
}

// Bytes of any kind: what Decode returns is encoded as it was decoded.
func FuzzHistory(f *testing.F) {
	f.Add(Encode(disktest.Store, goldenClock(), goldenStates()))
	f.Add(Encode(disktest.Store, goldenClock(), nil)[:HeaderSize-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		for off := HeaderSize; off+StateSize <= len(b); off += StateSize {
			if b[off]&1 == 0 { // half of them get a good checksum
				le.PutUint32(b[off:], disk.Checksum(b[off+4:off+StateSize]))
			}
		}
		for _, b := range [][]byte{b, disktest.Seal(b, min(offChecksum, max(0, len(b)-4)))} {
			_, states, _ := Decode(disktest.Store, b)
			_, again, damage := Decode(disktest.Store, Encode(disktest.Store, goldenClock(), states))
			if !slices.Equal(states, again) || damage != nil {
				t.Fatalf("%+v becomes %+v, %v", states, again, damage)
			}
		}
	})
}
