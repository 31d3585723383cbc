package objstore

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/journal"
	"varve/objstore/vfs"
)

// A volume whose tree has three levels, written here and there, settled in steps.
func TestDeepTree(t *testing.T) {
	w := fixedWorld(t, 1)
	w.init()
	const size = 300<<20 + 7*512 // over 256*256 chunks of 4 KiB
	w.fixedCreate("deep", size, 512)
	v, vol := w.fixedVolume("deep")
	for i, off := range []int64{0, size - 5000, 256 << 20, 256<<20 - 4096, 100 << 20, 1<<20 - 100, 255 << 20} {
		w.fixedWrite("deep", off, 5000, uint64(i))
		if i%2 == 0 {
			w.opSettle()
		}
	}
	w.opSettle() // compares the root
	w.fixedSnap("deep", "full")
	w.wrote(v, vol, 0, make([]string, 256<<20/SectorSize), vol.Zero(0, 256<<20), "zero")
	w.opSettle()
	w.checkSnap(v, "full")
	w.wrote(v, vol, 0, make([]string, len(v.cur)), vol.Zero(0, size), "zero")
	w.opSettle()
	i, err := w.s.VolumeInfo("deep")
	must(t, err)
	if i.Logical != 0 {
		t.Errorf("a volume of zeroes has %d logical bytes", i.Logical)
	}
	w.reopen()
	w.must(w.stop())
}

// A journal of several windows comes back whole from a kill, and up to its last flush from a power
// cut.
func TestLongJournal(t *testing.T) {
	for kind := range crashKinds {
		w := fixedWorld(t, uint64(kind))
		w.opts.JournalRecords = 3 * journal.WindowRecords
		w.init()
		w.fixedCreate("v", 4<<20, 512)
		v, vol := w.fixedVolume("v")
		for i := range 2*journal.WindowRecords + 1000 {
			if i%1000 == 7 {
				w.fixedWrite("v", int64(i*37%8000)*512, 1536, uint64(i))
			}
			first := i * 31 % 8192
			n := 1 + i%3
			n = min(n, 8192-first)
			w.wrote(v, vol, first, make([]string, n), vol.Zero(int64(first)*512, int64(n)*512), "zero")
			if i%20000 == 19999 {
				w.fixedFlush("v")
			}
		}
		w.crash(kind, false)
		w.opSettle()
		w.reopen()
		w.must(w.stop())
	}
}

// One kind of operation fails for good, from some moment on: everything is answered, whatever the
// answer, and nothing that was answered well is lost.
func TestFaultForever(t *testing.T) {
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
		for kind := vfs.Kind(0); kind <= vfs.OpMap; kind++ {
			t.Run(fmt.Sprintf("%v/%v", errno, kind), func(t *testing.T) {
				t.Parallel() // it mostly waits for another try
				w := newWorld(t, uint64(kind), nil)
				w.opts.SettleDelay = -1
				w.init()
				w.opCreate()
				w.opCreate()
				for range 20 {
					w.step()
				}
				var unsynced atomic.Bool
				w.setHook(func(op vfs.Op) error {
					if op.Kind != kind {
						return nil
					}
					if failsFlush(op) {
						unsynced.Store(true)
					}
					return errno
				})
				for range 12 {
					w.step()
					if w.unsynced = unsynced.Load(); w.s == nil {
						break
					}
				}
				w.setHook(nil)
				w.crash(int(kind)%crashKinds, false)
				w.opSettle()
				w.must(w.stop())
			})
		}
	}
}

// A record that the process was storing when it was killed is torn: it was not answered, and is no
// damage.
func (w *world) tearRecords() {
	names, err := w.mem.List(journal.Dir)
	w.must(err)
	for _, name := range names {
		volume, gen, draft, _ := journal.ParseName(name)
		if draft { // it holds no records, and is removed
			continue
		}
		f, err := w.mem.Open(journal.Dir + "/" + name)
		w.must(err)
		c, err := disk.ReadContent(f)
		w.must(err)
		if int64(len(c.Data)) <= journal.Offset(0) || disk.AllZero(c.Data[:512]) {
			w.must(f.Close())
			continue
		}
		id := journal.ID{Store: uuid.UUID(c.Data[16:32]), Volume: volume, Gen: gen}
		rp, err := journal.Read(w.mem, id, journal.Origin{}, func(bool, bool) journal.Trust { return journal.Trust{Cache: true, Moved: true} })
		w.must(err)
		off, next := journal.Offset(rp.Whole), journal.Offset(rp.Whole+1)
		if !rp.Final && next <= int64(len(c.Data)) && disk.AllZero(c.Data[off:next]) {
			b := make([]byte, journal.RecordSize) // data, as package journal draws it; no part of it has the right checksum
			le.PutUint32(b, 0x01020304)
			b[4], b[8], b[16] = byte(journal.Data), 1, 1
			le.PutUint32(b[24:], uint32(1+w.pick(300, "segment")))
			le.PutUint32(b[28:], 0x03030303)
			from := 4 * w.pick(2, "checksum last") // the checksum is stored last
			upto := from + 1 + w.pick(journal.RecordSize-1-from, "torn at")
			_, err := f.WriteAt(b[from:upto], off+int64(from))
			w.must(err)
			w.counts["torn records"]++
		}
		w.must(f.Close())
	}
}
