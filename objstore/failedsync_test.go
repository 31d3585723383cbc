package objstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

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

// A sync of recovery fails, each in turn, and the kernel takes what it should have written for
// clean. What the next opening then serves must hold across a power cut.
func TestFailedSyncOfRecovery(t *testing.T) {
	old, fresh := randomBytes(1, 64<<10), randomBytes(2, 64<<10)
	tried := map[string]int{}
	for n, failed := int32(0), true; failed; n++ {
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
		failed = false
		r.o.FS = vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpDatasync && count.Add(1)-1 == n {
				failed = true
				tried[strings.TrimRight(op.Name[:7], "/")]++
				mem.DropDirty(op.Name)
				return unix.EIO
			}
			return nil
		})
		if s, err := Open(t.Context(), "mem", r.o); err == nil {
			must(t, s.Quiesce())
			_ = s.Close()
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
