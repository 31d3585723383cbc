package objstore

import (
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/refs"
)

// A store can be known by another UUID. Its files keep theirs, and one of the two copies of the
// superblock is enough.
func TestNewUUID(t *testing.T) {
	r := newRig(t, Options{})
	r.write(r.volume("a", 1<<20), fill(1), 0)
	must(t, r.s.Settle(t.Context()))
	known := func() string {
		t.Helper()
		st, err := r.s.Stat()
		must(t, err)
		return st.UUID
	}
	files := r.s.FilesUUID()
	if known() != files {
		t.Errorf("a new store is known by %s, and its files have %s", known(), files)
	}
	first, err := r.s.NewUUID()
	must(t, err)
	second, err := r.s.NewUUID()
	must(t, err)
	if first == files || second == first || known() != second {
		t.Errorf("UUIDs %s, %s and %s; known by %s", files, first, second, known())
	}
	must(t, r.reopened(r.mem.Kill(), "boot"))
	if known() != second || r.s.FilesUUID() != files {
		t.Errorf("reopened, it is known by %s, and its files have %s", known(), r.s.FilesUUID())
	}
	r.undamaged("another UUID")
	wantBlocks(t, r.s, 1)

	// Killed between the two: the first counts, and neither is damaged.
	old, _, err := refs.ReadSuperblock(r.mem, false)
	must(t, err)
	sb := *old
	sb.KnownAs = disktest.Volume
	must(t, r.s.Close())
	must(t, disk.ReplaceFile(r.mem, refs.SuperblockFile, sb.Encode()))
	must(t, r.reopened(r.mem.Kill(), "boot"))
	r.undamaged("a UUID in one of two")
	if copied, err := refs.ReadSuperblockFile(r.mem, refs.SuperblockCopy); err != nil || *copied != sb || known() != disktest.Volume.String() {
		t.Errorf("known by %s, and the copy of the superblock is %+v, %v", known(), copied, err)
	}
}
