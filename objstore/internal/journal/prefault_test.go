package journal

import (
	"sync"
	"testing"
	"unsafe"

	"varve/objstore/vfs"
)

// pager is a file layer that knows which pages of mappings take a store without a fault: those that
// were prefaulted and not written to the disk since.
type pager struct {
	vfs.FS
	inMemory bool
	ready    map[uintptr]bool // pages, by address
	pages    int              // that were ever prefaulted
}

type pagedFile struct {
	vfs.File
	p *pager
}

func newPager(t *testing.T, inMemory bool) *pager {
	p := &pager{FS: vfs.NewMem(0), inMemory: inMemory, ready: map[uintptr]bool{}}
	must(t, p.Mkdir(Dir))
	return p
}

func (p *pager) InMemory() bool { return p.inMemory }

func (p *pager) Create(name string) (vfs.File, error) {
	f, err := p.FS.Create(name)
	return pagedFile{f, p}, err
}

func (f pagedFile) Datasync() error { // a Mem would copy all of the file
	clear(f.p.ready)
	return nil
}

func (f pagedFile) Prefault(b []byte) {
	for ; len(b) > 0; b = b[pageRecords*RecordSize:] {
		f.p.ready[uintptr(unsafe.Pointer(&b[0]))] = true
		f.p.pages++
	}
}

// faults reports whether the next record of a journal will fault.
func (p *pager) faults(j *File) bool {
	o := j.count % WindowRecords / pageRecords * pageRecords * RecordSize
	return !p.ready[uintptr(unsafe.Pointer(&j.windows[j.count/WindowRecords][o]))]
}

// Records that are appended between flushes, or without any, do not fault, and few more pages are
// prefaulted than they need.
func TestPrefault(t *testing.T) {
	const records = 5 * WindowRecords / 2
	for every, most := range map[int]int{ // records between two flushes, and how many pages
		1: 13 * records / 10, 2: 7 * records / 10, 7: records / 4, 500: 3 * records / pageRecords,
		records: records/pageRecords + 2*mostPages,
	} {
		p := newPager(t, false)
		j, err := Create(p, goldenID, goldenOrigin, 8*WindowRecords)
		must(t, err)
		var mu sync.Mutex
		for n := 1; j.Count() < records; n++ {
			if p.faults(j) {
				t.Fatalf("a flush every %d records: record %d faults", every, j.Count())
			}
			j.count++ // as Append would, but for the bytes
			if j.WantsWindow() || j.WantsPages() {
				must(t, j.Extend(&mu, Ahead))
				j.PrefaultAhead(&mu)
			}
			if n%every == 0 {
				must(t, j.Sync())
				j.PrefaultNext(&mu)
			}
		}
		if p.pages > most {
			t.Errorf("a flush every %d records: %d pages were prefaulted, want at most %d", every, p.pages, most)
		}
		j.Close()
		j.PrefaultNext(&mu)
	}
}

// A file in memory is never written anywhere: its pages are left to fault once.
func TestNoPrefaultInMemory(t *testing.T) {
	p := newPager(t, true)
	j, err := Create(p, goldenID, goldenOrigin, 2*WindowRecords)
	must(t, err)
	defer j.Close()
	if j.PrefaultNext(new(sync.Mutex)); j.WantsPages() || p.pages > 0 {
		t.Errorf("%d pages were prefaulted; wants more: %v", p.pages, j.WantsPages())
	}
}
