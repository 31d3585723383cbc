package objstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/journal"
	"varve/objstore/internal/record"
	"varve/objstore/internal/segment"
	"varve/objstore/vfs"
)

// A sync fails, and the kernel takes what it should have written for clean. The process dies of it
// and is started again in the same boot: what it then serves must hold across a power cut.
func TestRestartAfterFailedSync(t *testing.T) {
	for _, suffix := range []string{".seg", "journal", "refs/log", ".dir"} {
		r := newRig(t, Options{})
		old, fresh := randomBytes(1, 1<<20), randomBytes(2, 1<<20)
		v := r.volume("a", 16<<20)
		r.write(v, old, 0)
		must(t, v.Flush())
		must(t, v.Close())
		must(t, r.s.Close())
		var armed atomic.Bool
		mem := r.mem
		r.open(func(op vfs.Op) error {
			if armed.Load() && op.Kind == vfs.OpDatasync && (strings.HasSuffix(op.Name, suffix) || strings.HasPrefix(op.Name, suffix)) {
				mem.DropDirty(op.Name)
				return unix.EIO
			}
			return nil
		})
		v = r.volume("a", 0)
		r.write(v, fresh, 0)
		armed.Store(true)
		if suffix == ".seg" || suffix == "journal" {
			if err := v.Flush(); !errors.Is(err, ErrReadOnly) {
				t.Fatalf("%s: flush %v, want read-only", suffix, err)
			}
		} else if err := r.s.Settle(context.Background()); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("%s: settle %v, want read-only", suffix, err)
		}
		r.mem = r.mem.Kill()
		_ = r.s.Close()
		r.open(nil)
		v = r.volume("a", 0)
		got := make([]byte, len(old))
		_, err := v.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, old) && !bytes.Equal(got, fresh) {
			t.Fatalf("%s: neither the old nor the new bytes after the restart", suffix)
		}
		other := randomBytes(3, 4096)
		r.write(v, other, 8<<20)
		must(t, v.Flush())
		must(t, r.s.Settle(context.Background()))
		r.mem = r.mem.PowerCut(rand.New(rand.NewPCG(3, 4)))
		_ = r.s.Close()
		r.o.Boot = "next boot"
		r.open(nil)
		v = r.volume("a", 0)
		wantRead(t, v, 0, got)
		wantRead(t, v, 8<<20, other)
		must(t, r.s.Close())
	}
}

// The sync of a footer fails, and the process dies of it. Then the object log is damaged: the footer
// names all, and the log goes. That footer must be there after a power cut.
func TestFooterCountsAfterFailedSync(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	data := randomBytes(1, 1<<20)
	r.write(v, data, 0)
	must(t, r.s.Settle(t.Context()))
	must(t, v.Close())
	must(t, r.s.Close())
	mem := r.mem
	r.o.FS = vfs.Inject(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpDatasync && strings.HasSuffix(op.Name, ".seg") {
			mem.DropDirty(op.Name)
			return unix.EIO
		}
		return nil
	})
	if _, err := Open(t.Context(), "mem", r.o); !errors.Is(err, unix.EIO) { // it seals what was left open
		t.Fatalf("an opening whose syncs fail: %v", err)
	}
	r.mem = mem.Kill()
	names, err := r.mem.List(segment.Dir)
	must(t, err)
	for _, n := range names {
		if strings.HasSuffix(n, ".dir") {
			flip(t, r.mem, segment.Dir+"/"+n, record.HeaderSize+20)
		}
	}
	r.open(nil)
	damaged := len(r.s.segments.Damaged()) // those that the opening did not come to
	if damaged == len(names)/2 {
		t.Fatal("no segment has a footer")
	}
	for disk := range uint64(4) {
		again := newRig(t, Options{})
		must(t, again.reopened(r.mem.PowerCut(newRand(disk)), "next boot"))
		if now := again.s.segments.Damaged(); len(now) > damaged {
			t.Errorf("disk %d: %d segments are damaged, of which %d were before: %v", disk, len(now), damaged, now[0].Damage())
		}
		wantRead(t, again.volume("a", 0), 0, data)
	}
}

// A sync of recovery fails, each in turn, and the kernel takes what it should have written for
// clean. What the next opening then serves must hold across a power cut.
func TestFailedSyncOfRecovery(t *testing.T) {
	old, fresh := randomBytes(1, 64<<10), randomBytes(2, 64<<10)
	tried := map[string]int{}
	for n, failed := int32(0), ""; n == 0 || failed != ""; n++ {
		r := newRig(t, Options{})
		v := r.volume("a", 16<<20)
		must(t, r.s.Quiesce()) // nothing settles
		r.write(v, old, 0)
		r.write(v, old, 1<<20)
		must(t, v.Flush())
		r.write(v, fresh, 0)
		_, err := v.freeze()
		must(t, err)
		r.write(v, fresh, 1<<20) // in a generation of its own, and the same segment
		mem := r.mem.Kill()
		_ = r.s.Close()
		var count atomic.Int32
		failedOf := make(chan string, 1) // the file whose sync fails
		r.o.FS = vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpDatasync && count.Add(1)-1 == n {
				failedOf <- op.Name
				mem.DropDirty(op.Name)
				return unix.EIO
			}
			return nil
		})
		if s, err := Open(t.Context(), "mem", r.o); err == nil {
			must(t, s.Quiesce())
			_ = s.Close()
		}
		select {
		case failed = <-failedOf:
			tried[strings.TrimRight(failed[:7], "/")]++
		default:
			failed = ""
		}
		r.mem = mem.Kill()
		r.open(nil)
		must(t, r.s.Quiesce())
		v = r.volume("a", 0)
		got := make([]byte, 2<<20)
		_, err = v.ReadAt(got, 0)
		must(t, err)
		for _, off := range []int{0, 1 << 20} {
			if b := got[off : off+len(old)]; !bytes.Equal(b, old) && !bytes.Equal(b, fresh) {
				t.Fatalf("sync %d: neither the old nor the new bytes", n)
			}
		}
		must(t, v.Flush())
		must(t, r.reopened(r.mem.PowerCut(rand.New(rand.NewPCG(3, 4))), "next boot"))
		r.undamaged("a sync of recovery that failed")
		wantRead(t, r.volume("a", 0), 0, got)
	}
	t.Log(tried)
	if tried["segment"] == 0 || tried["journal"] == 0 {
		t.Errorf("not all kinds of files were tried: %v", tried)
	}
}

// A settling and a flush sync one segment at the same time, and write-back fails. Linux reports that to one of the two
// calls; here the settling's. The flush must not succeed for that, whichever of the two ends first.
func TestFailedSyncFailsTheSyncBesideIt(t *testing.T) {
	for _, c := range []struct {
		name string
		held vfs.Kind // where the settling waits until the flush has ended, or waits for the settling
	}{
		{"the flush ends first", vfs.OpDatasync},
		{"the settling has yet to report", vfs.OpWrite}, // of the mark by which the next opening distrusts a journal
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			must(t, r.s.Close())
			var seg atomic.Pointer[string] // nil: nothing fails yet
			var syncs, writes atomic.Int32
			waits, goesOn := make(chan struct{}), make(chan struct{})
			r.open(func(op vfs.Op) error {
				first := false
				switch name := seg.Load(); {
				case name == nil:
				case op.Kind == vfs.OpDatasync && op.Name == *name:
					if first = syncs.Add(1) == 1; first {
						r.mem.DropDirty(op.Name)
					}
				case op.Kind == vfs.OpWrite && strings.HasPrefix(op.Name, journal.Dir) && syncs.Load() > 0:
					first = writes.Add(1) == 1
				}
				if first && op.Kind == c.held {
					close(waits)
					<-goesOn
				}
				if first && op.Kind == vfs.OpDatasync {
					return unix.EIO
				}
				return nil
			})
			v := r.volume("a", 16<<20)
			must(t, r.s.Quiesce()) // the test settles
			r.write(v, randomBytes(1, 64<<10), 0)
			_, err := v.freeze()
			must(t, err)
			r.write(v, randomBytes(2, 64<<10), 2<<20) // in the same segment, and does not settle
			name := segment.Name(v.appendSegment.ID)
			seg.Store(&name)
			settled, flushed := make(chan error, 1), make(chan error, 1)
			go func() { settled <- v.settleOldest(context.Background()) }()
			<-waits
			go func() { flushed <- v.Flush() }()
			select {
			case err = <-flushed: // one that does not look at the settling's sync
				close(goesOn)
			case <-time.After(200 * time.Millisecond):
				close(goesOn)
				err = <-flushed
			}
			if !errors.Is(err, ErrReadOnly) {
				t.Errorf("flush: %v, want read-only", err)
			}
			if err := <-settled; !errors.Is(err, ErrReadOnly) {
				t.Errorf("settle: %v, want read-only", err)
			}
			must(t, r.reopened(r.mem.PowerCut(newRand(1)), "next boot"))
			r.undamaged("a sync that failed")
		})
	}
}
