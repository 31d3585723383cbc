package objstore

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// A file whose name is not quite that of a segment, of its object log, or of a journal is named, by
// the log and by a check, and neither opened nor deleted.
func TestStraysAreLeftAlone(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	data := randomBytes(1, 1<<20)
	r.write(v, data, 0)
	must(t, r.s.Settle(ctx))
	r.write(v, randomBytes(2, 8192), 0) // in a journal
	copy(data, randomBytes(2, 8192))
	must(t, v.Close())
	must(t, r.s.Close())

	var segs []string
	for id := uint32(1); id < 16; id++ {
		if _, err := r.mem.Used(segment.Name(id)); err == nil {
			segs = append(segs, segment.Name(id))
		}
	}
	journals, err := r.mem.List(journal.Dir)
	must(t, err)
	if len(segs) == 0 || len(journals) == 0 {
		t.Fatalf("segments %v, journals %v", segs, journals)
	}
	var strays []string
	stray := func(name string, like string) {
		t.Helper()
		from, err := r.mem.Open(like)
		must(t, err)
		c, err := disk.ReadContent(from)
		must(t, err)
		must(t, from.Close())
		f, err := disk.CreateFile(r.mem, name, c.Data)
		must(t, err)
		must(t, f.Close())
		strays = append(strays, name)
	}
	id := segs[0][len(segment.Dir)+1 : len(segment.Dir)+9]
	for _, name := range []string{id + ".bak", id + ".SEG", id + ".sg~", "+" + id[1:] + ".seg", " " + id[1:] + ".seg", "0000000A.seg", "0000000B.dir", id + ".seg.old"} {
		stray(segment.Dir+"/"+name, segs[0])
	}
	volume := journals[0][:36]
	for _, name := range []string{
		journals[0] + "~", volume + "-000000000000000A", volume + "-+00000000000000f", "notes.new", "{" + volume + "}-0000000000000001",
		strings.ReplaceAll(volume, "-", ""),
	} {
		stray(journal.Dir+"/"+name, journal.Dir+"/"+journals[0])
	}
	must(t, r.mem.SyncDir(segment.Dir))
	must(t, r.mem.SyncDir(journal.Dir))
	var mu sync.Mutex
	opened := map[string]int{} // guarded by mu
	r.open(func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == vfs.OpOpen {
			opened[op.Name]++
		}
		return nil
	})
	report, err := r.s.Check(ctx, nil)
	must(t, err)
	if len(report.Damage) > 0 {
		t.Errorf("damage: %+v", report.Damage)
	}
	mu.Lock()
	opened = maps.Clone(opened)
	mu.Unlock()
	for _, name := range strays {
		if !slices.Contains(report.Strays, name) {
			t.Errorf("the check does not name %s", name)
		}
		if _, err := r.mem.Used(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if opened[name] > 0 {
			t.Errorf("%s was opened", name)
		}
	}
	for _, name := range segs {
		if opened[name] > 1 {
			t.Errorf("%s was opened %d times", name, opened[name])
		}
	}
	readBack(t, r, data)
}

// readBack compares the beginning of volume a.
func readBack(t *testing.T, r *rig, data []byte) {
	t.Helper()
	v := r.volume("a", 0)
	got := make([]byte, len(data))
	_, err := v.ReadAt(got, 0)
	must(t, err)
	if !slices.Equal(got, data) {
		t.Error("the volume reads something else")
	}
	must(t, v.Close())
}
