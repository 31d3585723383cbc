package objstore

import (
	"errors"
	"testing"
)

// Settings that are changed together are one step: wherever the disk fails or the machine loses its
// power, all of them are there or none.
func TestSetVolumeIsOneStep(t *testing.T) {
	change := VolumeChange{Verify: ptr(true), Quota: ptr(int64(8 << 20)), Reserve: ptr(int64(1 << 20)), Retention: keeping(Retention{KeepLast: 3})}
	set := func(i VolumeInfo) (n int) {
		for _, is := range []bool{i.Verify, i.Quota == 8<<20, i.Reserve == 1<<20, i.Policy != nil && i.Policy.KeepLast == 3} {
			if is {
				n++
			}
		}
		return n
	}
	const features = 20 // operations at most that the features take, and the record
	seen := map[int]int{}
	for at := range int64(features) {
		r := newRig(t, Options{})
		must(t, r.volume("a", 64<<20).Close())
		r.mem.CutAt(r.mem.Ops() + at)
		i, err := r.s.SetVolume(t.Context(), "a", change)
		if cut := r.mem.WasCut(); !cut && (err != nil || set(i) != 4) {
			t.Fatalf("cut at %d, not reached: %+v, %v", at, i, err)
		}
		answered := err == nil
		r.end("power cut")
		r.open(nil)
		i, err = r.s.VolumeInfo("a")
		must(t, err)
		n := set(i)
		if seen[n]++; n != 0 && n != 4 || answered && n != 4 {
			t.Errorf("cut at %d, answered %v: %d of 4 settings: %+v, policy %+v", at, answered, n, i, i.Policy)
		}
	}
	if seen[0] == 0 || seen[4] == 0 {
		t.Errorf("settings that were there after %d cuts: %v", features, seen)
	}
}

// A setting that is refused keeps the others from being set.
func TestSetVolumeRefused(t *testing.T) {
	r := newRig(t, Options{})
	must(t, r.volume("a", 4<<20).Close())
	for _, c := range []VolumeChange{
		{Verify: ptr(true), Reserve: ptr(int64(8 << 20))},
		{Verify: ptr(true), Quota: ptr(int64(1 << 20)), Retention: keeping(Retention{KeepLast: -1})},
	} {
		_, err := r.s.SetVolume(t.Context(), "a", c)
		i, ierr := r.s.VolumeInfo("a")
		must(t, ierr)
		if !errors.Is(err, ErrInvalid) || i.Verify || i.Quota != 0 || i.Policy != nil {
			t.Errorf("%+v: %v, and the volume has %+v", c, err, i)
		}
	}
}
