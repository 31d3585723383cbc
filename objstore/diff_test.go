package objstore

import (
	"errors"
	"slices"
	"testing"
)

// Images of different sizes, and so of trees of different depth, are compared; what has settled and
// what has not.
func TestDiffSizes(t *testing.T) {
	const leaf = 256 * 4096
	r := newRig(t, Options{})
	small, large := r.volume("small", leaf), r.volume("large", 300*leaf+512)
	r.write(small, randomBytes(1, 8192), 0)
	r.write(large, randomBytes(1, 8192), 0)
	r.write(large, randomBytes(2, 4096), 100*leaf)
	r.write(large, randomBytes(3, 512), 300*leaf)
	diff := func(from, to string) []Change {
		t.Helper()
		var got []Change
		_, err := r.s.Diff(t.Context(), ParseImageName(from), ParseImageName(to), func(DiffImages) error { return nil },
			func(c Change) error { got = append(got, c); return nil })
		must(t, err)
		return got
	}
	for _, settled := range []bool{false, true} {
		if got := diff("small", "large"); !slices.Equal(got, []Change{{100 * leaf, 4096, false}, {300 * leaf, 512, false}}) {
			t.Errorf("settled %v: small to large: %v", settled, got)
		}
		if got := diff("large", "small"); len(got) != 0 {
			t.Errorf("settled %v: large to small: %v", settled, got)
		}
	}
	_, err := r.s.CreateSnapshot(t.Context(), "small", "s")
	must(t, err)
	must(t, small.Zero(4096, 4096))
	r.write(small, randomBytes(4, 512), leaf-512)
	want := []Change{{4096, 4096, true}, {leaf - 4096, 4096, false}}
	if got := diff("small@s", "small"); !slices.Equal(got, want) {
		t.Errorf("since the snapshot: %v, want %v", got, want)
	}
	if n := len(r.s.catalog.views); n != 0 {
		t.Errorf("%d views are left open", n)
	}
}

// What can't be compared is named.
func TestDiffRefuses(t *testing.T) {
	r := newRig(t, Options{})
	r.volume("a", 1<<20)
	ignore := func(DiffImages) error { return nil }
	for _, name := range []string{"b", "a@s", "b@s"} {
		if _, err := r.s.Diff(t.Context(), ParseImageName("a"), ParseImageName(name), ignore, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("diff with %s, which is not there: %v", name, err)
		}
	}
	full := errors.New("full")
	if _, err := r.s.Diff(t.Context(), ImageName{Volume: "a"}, ImageName{Volume: "a"}, func(DiffImages) error { return full }, nil); !errors.Is(err, full) {
		t.Errorf("an error of the caller: %v", err)
	}
	if n := len(r.s.catalog.views); n != 0 {
		t.Errorf("%d views are left open", n)
	}
}
