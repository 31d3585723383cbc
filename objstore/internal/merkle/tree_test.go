package merkle

import (
	"testing"

	"varve/objstore/internal/disk"
)

func TestDepth(t *testing.T) {
	const chunk = disk.MinChunkSize
	for _, c := range []struct {
		size int64
		want int
	}{
		{1, 1}, {256 * chunk, 1}, {256*chunk + 1, 2}, {256 * 256 * chunk, 2}, {256*256*chunk + 1, 3}, {disk.MaxVolumeSize, 5},
	} {
		if got := Depth(c.size, chunk); got != c.want {
			t.Errorf("depth over %d bytes: %d, want %d", c.size, got, c.want)
		}
	}
	if k := NodeKind(Depth(disk.MaxVolumeSize, chunk)); !k.Valid() {
		t.Errorf("the top node of the largest volume is an invalid %v", k)
	}
}

func TestParseHash(t *testing.T) {
	h := hashOf(0xa5)
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Errorf("%v read as %v, %v", h, got, err)
	}
	for _, s := range []string{"", "a5", h.String() + "a5", "x" + h.String()[1:]} {
		if got, err := ParseHash(s); err == nil {
			t.Errorf("%q read as %v", s, got)
		}
	}
}
