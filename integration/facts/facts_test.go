package facts

import (
	"bytes"
	"testing"
)

func TestExpect(t *testing.T) {
	list := []Fact{
		{What: Ready},
		{What: File, Volume: "v", Name: "a", Size: 10},
		{What: File, Volume: "v", Name: "b", Size: 10},
		{What: Volume, Volume: "w"},
		{What: Snapshot, Volume: "v", Name: "a", Root: "1"},
		{What: Unlink, Volume: "v", Name: "a"},
		{What: SnapshotDelete, Volume: "v", Name: "a"},
		{What: VolumeDelete, Volume: "w"},
		{What: SnapshotGone, Volume: "v", Name: "a"},
		{What: VolumeGone, Volume: "w"},
	}
	for _, c := range []struct{ facts, files, snaps, volumes, gone int }{
		{1, 0, 0, 0, 0}, {2, 1, 0, 0, 0}, {5, 2, 1, 1, 0}, {6, 1, 1, 1, 0}, {7, 1, 0, 1, 0}, {8, 1, 0, 0, 0}, {9, 1, 0, 0, 1}, {10, 1, 0, 0, 2},
	} {
		e := Expect(list[:c.facts])
		if len(e.Files) != c.files || len(e.Snapshots) != c.snaps || len(e.Volumes) != c.volumes || len(e.Gone) != c.gone {
			t.Errorf("after %d facts: %+v", c.facts, e)
		}
	}
}

func TestContent(t *testing.T) {
	f := Fact{Size: 100_000, Seed: 7}
	b := f.Content()
	if len(b) != f.Size || !bytes.Equal(b, f.Content()) {
		t.Error("the content is not the same twice")
	}
	g := Fact{Size: 100_000, Seed: 8}
	if bytes.Equal(b, g.Content()) {
		t.Error("another seed gives the same content")
	}
}
