package journal

import (
	"os"
	"sync"
)

// prefaulted are the pages of a journal's mapping that take records without a fault.
//
// The first store to a page of the mapping faults, and so does the first one after each write of the
// page to the disk: the kernel has to know that it is dirty again. Such a fault enters the file
// system (page_mkwrite of Linux's vm_operations_struct), which may wait: ext4 and xfs start a
// transaction there. Append is called on a queue's thread, so the pages are prefaulted by goroutines
// that may wait:
//
//	after a flush        the page of the next record, and the one behind it if less than a quarter of it is left
//	as records come      1, 2, 4, up to 16 pages ahead, as long as there is no flush
//
// The number starts again at each flush, for that writes all of them to the disk. What still faults
// are stores during a flush, and the first one to a page that the kernel has written on its own, as
// it does every 5 to 30 s. File systems in memory write no page anywhere: there each page faults
// once, and nothing waits.
type prefaulted struct {
	off    bool // the file is in memory
	upto   int  // records up to this one lie on such pages, beginning at the journal's next
	stride int  // pages that were prefaulted at a time
}

// mostPages are prefaulted at a time. The next flush writes them, whether they have records or not.
const mostPages = 16

// pageRecords is how many records lie on a page.
var pageRecords = os.Getpagesize() / RecordSize

// WantsPages reports that seven eighths of the pages that were prefaulted last are used. Under the
// owner's lock.
func (j *File) WantsPages() bool {
	p := &j.pages
	return j.count+p.stride*pageRecords/8 > p.upto && !p.off && p.upto < len(j.windows)*WindowRecords
}

// PrefaultNext prefaults where the next records go. It may block; mu is the owner's lock, which it
// takes only to look.
func (j *File) PrefaultNext(mu sync.Locker) {
	mu.Lock()
	j.pages.stride, j.pages.upto = 0, 0
	mu.Unlock()
	if j.growMu.TryLock() { // else an extension runs, which prefaults at its end
		defer j.growMu.Unlock()
		j.prefault(mu)
	}
}

// PrefaultAhead prefaults pages behind those that are. It may block; mu is the owner's lock, which
// it takes only to look.
func (j *File) PrefaultAhead(mu sync.Locker) {
	j.growMu.Lock()
	defer j.growMu.Unlock()
	j.prefault(mu)
}

// prefault prefaults the next pages, twice as many as the last time.
// REQUIRES: growMu is held, so that the pages stay mapped.
func (j *File) prefault(mu sync.Locker) {
	if j.file == nil || j.pages.off {
		return
	}
	for _, b := range j.nextPages(mu) {
		j.file.Prefault(b)
	}
}

// nextPages takes the pages that are to be prefaulted next, by window. It takes mu.
func (j *File) nextPages(mu sync.Locker) (pages [2][]byte) {
	mu.Lock()
	defer mu.Unlock()
	p := &j.pages
	p.stride = min(max(2*p.stride, 1), mostPages)
	from := max(p.upto, j.count/pageRecords*pageRecords)
	to := from + p.stride*pageRecords
	if to-j.count < pageRecords/4 {
		to += pageRecords
	}
	to = min(to, len(j.windows)*WindowRecords)
	p.upto = max(p.upto, to)
	for i := range pages {
		end := min(to, (from/WindowRecords+1)*WindowRecords)
		if from >= end {
			break
		}
		at := from % WindowRecords * RecordSize
		pages[i] = j.windows[from/WindowRecords][at : at+(end-from)*RecordSize]
		from = end
	}
	return pages
}
