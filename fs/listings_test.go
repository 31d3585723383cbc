package fs

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"varve/objstore"
)

// countedSource counts the volumes, snapshots and roots that it returns.
type countedSource struct {
	*fakeSource
	visited int
}

func (s *countedSource) Volumes() []objstore.VolumeInfo {
	out := s.fakeSource.Volumes()
	s.visited += len(out)
	return out
}

func (s *countedSource) VolumeInfo(name string) (objstore.VolumeInfo, error) {
	s.visited++
	return s.fakeSource.VolumeInfo(name)
}

func (s *countedSource) Snapshots(volume string) ([]objstore.SnapshotInfo, error) {
	out, err := s.fakeSource.Snapshots(volume)
	s.visited += len(out)
	return out, err
}

func (s *countedSource) SnapshotInfo(volume, snap string) (objstore.SnapshotInfo, error) {
	s.visited++
	return s.fakeSource.SnapshotInfo(volume, snap)
}

func (s *countedSource) Roots() []string {
	out := s.fakeSource.Roots()
	s.visited += len(out)
	return out
}

func (s *countedSource) RootInfo(root string) (objstore.RootInfo, error) {
	s.visited++
	return s.fakeSource.RootInfo(root)
}

// listAll does what ls -lR does: it lists each directory, and looks up each entry and its
// attributes.
func listAll(t *testing.T, l listing) (lines int) {
	t.Helper()
	ctx := context.Background()
	entries, err := l.list(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n, err := l.find(ctx, e.Name)
		if err != nil {
			t.Fatalf("find %s: %v", e.Name, err)
		}
		var a fuse.Attr
		if err := n.attr(ctx, &a); err != nil {
			t.Fatalf("attributes of %s: %v", e.Name, err)
		}
		lines++
		if d, ok := n.(*dir); ok {
			lines += listAll(t, d.listing)
		}
	}
	return lines
}

// The cost of listing the whole mount is linear in the number of snapshots.
func TestListingCostIsLinear(t *testing.T) {
	cost := func(snapshots int) (lines, visited int) {
		src := newFakeSource()
		for i := range snapshots {
			volume := fmt.Sprintf("v%d", i%4)
			if src.volumes[volume] == nil {
				src.create(volume, mib)
			}
			if _, err := src.volumes[volume].WriteAt([]byte(fmt.Sprint(i)), int64(i)*objstore.SectorSize); err != nil {
				t.Fatal(err)
			}
			src.snapshot(volume, fmt.Sprintf("s%d", i), i%8 != 0)
		}
		counted := &countedSource{fakeSource: src}
		tr, _ := newTree(counted, Options{Logger: slog.New(slog.DiscardHandler)})
		lines = listAll(t, rootListing{tr})
		return lines, counted.visited
	}
	lines, visited := cost(100)
	moreLines, more := cost(200)
	t.Logf("%d lines visit %d entries of the source, %d lines %d", lines, visited, moreLines, more)
	if moreLines < 2*lines-40 {
		t.Fatalf("%d lines for 100 snapshots, %d for 200", lines, moreLines)
	}
	if more > visited*5/2 {
		t.Errorf("twice the snapshots visit %d entries of the source instead of %d: more than twice as many", more, visited)
	}
}
