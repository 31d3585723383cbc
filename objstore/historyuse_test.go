package objstore

import (
	"testing"
)

// historyOf returns what stat says that past states take, and what the list says of those of a
// volume.
func (r *rig) historyOf(volume string) (all, own int64) {
	r.t.Helper()
	st, err := r.s.CountedStat(r.t.Context())
	must(r.t, err)
	v, err := r.s.SharedVolume(r.t.Context(), volume)
	must(r.t, err)
	if st.Uses == nil || st.Uses.History == nil || v.Share == nil {
		r.t.Fatalf("uses %+v, share %+v", st.Uses, v.Share)
	}
	if sum := st.Uses.Total(); sum != st.Used {
		r.t.Errorf("uses add up to %d bytes, %d are used", sum, st.Used)
	}
	return *st.Uses.History, v.Share.History
}

// The past of a volume takes what neither the volume, nor a snapshot, nor another volume has. What
// two volumes have in their past is of neither alone.
func TestHistoryUse(t *testing.T) {
	r := newRig(t, Options{})
	const image = 4096 + 4096 // a root, and a leaf of up to 128 chunks
	keep := func(name string) {
		_, err := r.s.SetRetention(t.Context(), name, keeping(Retention{KeepLast: 10}))
		must(t, err)
	}
	put := func(v *Volume, from int) {
		r.write(v, numbered(from, 10), 0)
		must(t, r.s.Settle(t.Context()))
	}
	want := func(when, volume string, all, own int64) {
		t.Helper()
		if gotAll, gotOwn := r.historyOf(volume); gotAll != all || gotOwn != own {
			t.Errorf("%s past states have %d bytes, of %s alone %d; want %d and %d", when, gotAll, volume, gotOwn, all, own)
		}
	}
	a := r.volume("a", 1<<20)
	keep("a")
	put(a, 0)
	want("with one state, the present one,", "a", 0, 0)
	put(a, 100)
	one := int64(10*4096 + image)
	want("after another", "a", one, one)
	r.snapshot("a", "s")
	put(a, 200)
	want("beside a snapshot of the second", "a", one, one)

	b := r.volume("b", 1<<20)
	keep("b")
	put(b, 0)
	want("with the first state in another volume", "a", 0, 0)
	put(b, 300)
	want("with the first state in two pasts", "a", one, 0)
	must(t, r.s.DeleteSnapshot(t.Context(), "a", "s"))
	want("without the snapshot", "a", 2*one, one)

	_, err := r.s.SetRetention(t.Context(), "a", keeping(Retention{}))
	must(t, err)
	_, err = r.s.PruneHistory(t.Context(), "a")
	must(t, err)
	want("without the past of the other volume", "b", one, one)
}

// What an image has alone is counted again when another name of its root goes, although no object
// does.
func TestUniqueOfTwoNames(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 1<<20)
	r.write(v, numbered(0, 10), 0)
	r.snapshot("a", "one")
	r.snapshot("a", "two")
	r.write(v, numbered(100, 10), 0)
	must(t, r.s.Settle(t.Context()))
	for i, want := range []int64{0, 10*4096 + 2*4096} {
		if i == 1 {
			must(t, r.s.DeleteSnapshot(t.Context(), "a", "two"))
		}
		list, err := r.s.SharedSnapshots(t.Context(), "a")
		must(t, err)
		if got := list[0].Share; got == nil || got.Unique != want {
			t.Errorf("share of the first snapshot of %d is %+v, want %d bytes unique", len(list), got, want)
		}
	}
}
