package object

import (
	"testing"

	"varve/objstore/internal/segment"
)

// What is verified stays within its bound, and the newest is kept.
func TestVerifiedIsBounded(t *testing.T) {
	var v Verified
	for seg := uint32(1); seg < 5000; seg++ {
		for block := uint32(1); block < 1<<16; block += 4097 {
			v.Add(segment.At(seg, block))
		}
		if !v.Has(segment.At(seg, 1)) || v.Has(segment.At(seg, 2)) {
			t.Fatalf("segment %d: it does not know what it was told", seg)
		}
	}
	if v.bytes > verifiedBytes || v.bytes < verifiedBytes/2 {
		t.Errorf("%d bytes, bound %d", v.bytes, verifiedBytes)
	}
	if v.Has(segment.At(1, 1)) {
		t.Error("nothing was forgotten")
	}
}

func TestQuarantine(t *testing.T) {
	var q Quarantine
	a, b := segment.At(1, 1), segment.At(1, 2)
	if q.Suspect(a) || q.Quarantined(a) {
		t.Error("a location of which nothing is known is suspect")
	}
	if !q.add(a, false) || q.add(a, false) || !q.Suspect(a) || q.Quarantined(a) {
		t.Error("one that cannot be read is to be suspect, and news once")
	}
	if q.add(a, true) || !q.Quarantined(a) {
		t.Error("one that turns out to be wrong is to be quarantined")
	}
	if q.add(a, false); !q.Quarantined(a) {
		t.Error("one that is quarantined stays so when it cannot be read")
	}
	q.add(b, false)
	if q.clear(b); q.Suspect(b) || q.Generation() != 0 {
		t.Error("clearing one that was read all the time repairs nothing")
	}
	if q.clear(a); q.Suspect(a) || q.Quarantined(a) || q.Generation() != 1 {
		t.Error("clearing one that was not read any more begins a repair generation")
	}
}
