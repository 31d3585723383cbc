package objstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs"
)

// A disk that is full when objects are to be recorded, or a segment is to be sealed, stops nothing
// for good, and the settlings that fail meanwhile don't fill it further.
func TestSettleOnFullDisk(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Options{})
	must(t, r.s.Close())
	var full atomic.Pointer[string]
	none := ""
	full.Store(&none)
	r.open(func(op vfs.Op) error {
		at := *full.Load()
		if at != "" && (op.Kind == vfs.OpCreate || op.Kind == vfs.OpWrite) && strings.HasSuffix(op.Name, at) &&
			(at != ".seg" || op.Off >= smallestSegment) {
			return unix.ENOSPC
		}
		return nil
	})
	v := r.volume("a", 64<<20)
	want := make([]byte, 4<<20)
	for i, at := range []string{".dir", "refs/log", ".seg"} {
		for o := 0; o < len(want); o += 4096 { // parts of chunks: every one is copied
			part := randomBytes(uint64(i*1000+o/4096+1), 512)
			copy(want[o:], part)
			r.write(v, part, int64(o))
		}
		full.Store(&at)
		var used int64
		for try := range 4 {
			err := r.s.Settle(ctx)
			if at != ".seg" && !errors.Is(err, ErrNoSpace) {
				t.Fatalf("%s full: %v, want no space", at, err)
			}
			if at == ".seg" && err != nil {
				t.Fatalf("sealing on a full disk: %v", err)
			}
			v.settleMu.Lock() // not in the middle of another try
			st, err := r.s.Stat()
			v.settleMu.Unlock()
			must(t, err)
			if try > 0 && st.Used > used+64<<10 { // each of them copies 4 MiB
				t.Fatalf("%s full: try %d uses %d bytes, the one before %d", at, try, st.Used, used)
			}
			used = st.Used
		}
		full.Store(&none)
		v.settleMu.Lock()   // what has failed in the meantime is over
		v.settleMu.Unlock() //nolint:staticcheck // the section is empty: this only waits
		time.Sleep(10 * time.Millisecond)
		must(t, r.s.Settle(ctx))
		wantRead(t, v, 0, want)
	}
	must(t, v.Close())
	must(t, r.s.Close())
	r.open(nil)
	wantRead(t, r.volume("a", 0), 0, want)
}

// A volume can be read where there is no room for its journal, and is written again when there is.
func TestOpenVolumeOnFullDisk(t *testing.T) {
	r := newRig(t, Options{})
	v := r.volume("a", 16<<20)
	want := randomBytes(9, 64<<10)
	r.write(v, want, 0)
	must(t, v.Close())
	must(t, r.s.Close())
	var full atomic.Bool
	full.Store(true)
	r.open(func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpAllocate {
			return unix.ENOSPC
		}
		return nil
	})
	v = r.volume("a", 0)
	wantRead(t, v, 0, want)
	if _, err := v.WriteAt(want, 1<<20); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("write on a full disk: %v, want no space", err)
	}
	must(t, v.Flush())
	must(t, r.s.Settle(context.Background()))
	full.Store(false)
	for try := 0; ; try++ {
		_, err := v.WriteAt(want, 1<<20)
		if err == nil {
			break
		}
		if try == 100 {
			t.Fatalf("write when there is room again: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	wantRead(t, v, 1<<20, want)
}
