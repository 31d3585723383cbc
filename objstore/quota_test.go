package objstore

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"varve/objstore/internal/refs"
)

// freshChunks counts the chunks that fresh has made.
var freshChunks atomic.Int64

// fresh returns n chunks that no test has yet.
func fresh(n int) []byte { return numbered(int(freshChunks.Add(int64(n))), n) }

func (r *rig) limit(volume string, quota, reserve int64) {
	r.t.Helper()
	_, err := r.s.SetLimits(context.Background(), volume, &quota, &reserve)
	must(r.t, err)
}

// A volume at its quota takes what does not make it grow, and others go on.
func TestQuota(t *testing.T) {
	r := newRig(t, Options{})
	v, other := r.volume("a", 4<<20), r.volume("b", 4<<20)
	write := func(v *Volume, chunk, n int) error {
		_, err := v.WriteAt(fresh(n), int64(chunk)*4096)
		return err
	}
	must(t, write(v, 0, 50))
	r.limit("a", 100*4096, 0)
	must(t, write(v, 50, 50))
	full := func(when string, v *Volume, chunk, n int) {
		t.Helper()
		if err := write(v, chunk, n); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: writing %d chunks at %d: %v", when, n, chunk, err)
		}
	}
	full("at the quota", v, 200, 1)
	must(t, write(v, 0, 100)) // all of it is there
	must(t, write(v, 3, 20))
	full("after overwriting", v, 99, 2)
	must(t, write(other, 0, 200))
	must(t, v.Zero(10*4096, 10*4096))
	must(t, write(v, 300, 10)) // as much as was discarded
	full("as much as was discarded is there again", v, 400, 1)
	must(t, write(v, 305, 5))

	r.limit("a", 120*4096, 0)
	must(t, write(v, 400, 20))
	full("at the greater quota", v, 500, 1)
	must(t, r.s.Settle(context.Background()))
	if i, err := r.s.VolumeInfo("a"); err != nil || i.Logical != 120*4096 || i.Quota != 120*4096 {
		t.Errorf("%+v, %v", i, err)
	}
	must(t, v.Close())
	must(t, other.Close())
	for _, how := range []string{"closed", "killed"} {
		r.end(how)
		r.open(nil)
		v = r.volume("a", 0)
		full("after an opening", v, 500, 1)
		must(t, write(v, 0, 5))
		must(t, v.Close())
	}
	r.limit("a", 60*4096, 0) // below what it has
	v = r.volume("a", 0)
	full("below what is there", v, 500, 1)
	must(t, write(v, 40, 9))
	r.limit("a", 0, 0)
	must(t, write(v, 500, 100))
}

// A quota is a feature of the store from its first use on.
func TestQuotaIsAFeature(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("a", 4<<20)
	has := func() bool { return r.s.sb.current.Load().Features.Has(refs.NewFeatures(refs.Quota)) }
	if has() {
		t.Error("a store without a quota has the feature")
	}
	r.limit("a", 1<<20, 0)
	if !has() {
		t.Error("a store with a quota does not have the feature")
	}
}

// What overwrites all the time does not use its quota up by what has not settled.
func TestQuotaCountsContentAndNotWrites(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 4<<20)
	r.limit("a", 30*4096, 0)
	for range 40 {
		_, err := v.WriteAt(fresh(20), 0)
		must(t, err)
	}
	for i := range 80 { // a part of a chunk each: sixteen to a chunk
		_, err := v.WriteAt(fresh(1)[:256], 20*4096+int64(i)*256)
		must(t, err)
	}
	if _, err := v.WriteAt(fresh(10), 100*4096); !errors.Is(err, ErrNoSpace) {
		t.Errorf("beyond the quota: %v", err)
	}
	if _, err := v.WriteAt(fresh(5), 100*4096); err != nil {
		t.Errorf("within the quota: %v", err)
	}
}

// Room that is reserved for a volume is the volume's when others have taken all the rest.
func TestReservation(t *testing.T) {
	r := newRig(t, Options{Reserve: 4 << 20})
	must(t, r.s.SetMaxSize(t.Context(), SmallestMaxSize))
	v, other := r.volume("a", 64<<20), r.volume("b", 1<<30)
	const reserved = 16 << 20
	if _, err := r.s.SetLimits(context.Background(), "a", nil, ptr(int64(65<<20))); !errors.Is(err, ErrInvalid) {
		t.Errorf("a reservation above the volume's size: %v", err)
	}
	if _, err := r.s.SetLimits(context.Background(), "b", nil, ptr(int64(200<<20))); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a reservation of more room than there is: %v", err)
	}
	r.limit("a", 0, reserved)
	if st, err := r.s.Stat(); err != nil || st.Promised != reserved {
		t.Errorf("%d bytes are promised, %v", st.Promised, err)
	}
	var err error
	for i := 0; err == nil; i++ {
		_, err = other.WriteAt(fresh(64), int64(i)*64*4096)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if st, err := r.s.Stat(); err != nil || st.Used > SmallestMaxSize-4<<20-reserved+2<<20 { // what journals and the index take comes on top
		t.Errorf("others have taken all but %d bytes, of which %d are reserved; %v", SmallestMaxSize-4<<20-st.Used, int64(reserved), err)
	}
	for i := range reserved / (64 * 4096) * 3 / 4 { // the rest is less than the largest that a write may need
		if _, err := v.WriteAt(fresh(64), int64(i)*64*4096); err != nil {
			t.Fatalf("write %d within the reservation: %v", i, err)
		}
	}
	must(t, v.Close())
	must(t, r.s.DeleteVolume(context.Background(), "a"))
	if got := r.s.space.promised.Load(); got != 0 {
		t.Errorf("%d bytes are promised to a volume that is deleted", got)
	}
}

func ptr[T any](v T) *T { return &v }
