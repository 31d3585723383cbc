package refs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"varve/objstore/internal/disk"
	"varve/objstore/internal/disktest"
	"varve/objstore/internal/merkle"
	"varve/objstore/vfs"
)

// longLog is the log of a volume with n settled snapshots, a hundred in a frame.
func longLog(t *testing.T, n int) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem(0)
	must(t, mem.Mkdir(Dir))
	must(t, Create(mem, disktest.Store, Record{Op: OpVolume, ID: disktest.Volume, Name: "vol", Size: 1 << 20, BlockSize: 512}))
	l, _, err := Open(t.Context(), mem, disktest.Store, chunkSize, quiet)
	must(t, err)
	for i := 0; i < n; i += 100 {
		recs := make([]Record, 100)
		for j := range recs {
			root := merkle.Sum(merkle.KindRoot, fmt.Append(nil, i+j))
			recs[j] = Record{Op: OpSnapshot, ID: disktest.Volume, Name: fmt.Sprintf("auto-%08d", i+j), Root: root.String(), Logical: 1}
		}
		must(t, l.Append(recs))
	}
	must(t, l.Close())
	return mem
}

// A long log is opened without being read as a whole, unless something is wrong with it.
func TestLongLogIsStreamed(t *testing.T) {
	defer func(was int64) { streamAbove = was }(streamAbove)
	streamAbove = 64 << 10
	const n = 12000
	mem := longLog(t, n)
	size := int64(len(disktest.ReadFile(t, mem, LogFile)))
	end := int64(0)
	var mu sync.Mutex
	largest := int64(0) // guarded by mu
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == vfs.OpRead {
			largest = max(largest, op.Len)
		}
		return nil
	})
	open := func(whole bool, damage int) {
		t.Helper()
		largest = 0
		l, s, err := Open(t.Context(), fs, disktest.Store, chunkSize, quiet)
		must(t, err)
		if got := largest > 1<<20; got != whole {
			t.Errorf("a log of %d bytes was read in pieces of up to %d", size, largest)
		}
		if got := len(s.Volumes["vol"].Snapshots); got != n {
			t.Errorf("%d snapshots, want %d", got, n)
		}
		if got := l.Damage(); len(got) != damage {
			t.Errorf("repaired: %v", got)
		}
		end = l.Size()
		must(t, l.Tidy(s))
		must(t, l.Close())
	}
	open(false, 0)
	open(false, 0)
	change := func(name string, off int64, b []byte) {
		t.Helper()
		f, err := mem.Open(name)
		must(t, err)
		_, err = f.WriteAt(b, off)
		must(t, err)
		must(t, f.Close())
	}
	change(LogCopy, size/2, []byte("not what was there"))
	open(true, 1)
	open(false, 0)
	for _, name := range LogFiles { // a frame that a power cut has torn
		change(name, end, []byte("torn, and never answered"))
	}
	open(true, 0)
	open(false, 0)
}

// The reading of a log ends with its context, before it is read to the end, and changes nothing.
func TestContextEndsOpening(t *testing.T) {
	defer func(was int64) { streamAbove = was }(streamAbove)
	mem := longLog(t, 4<<10)
	for _, streamAbove = range []int64{1 << 10, 1 << 30} {
		ctx, cancel := context.WithCancel(t.Context())
		reads := 0 // after the end
		var mu sync.Mutex
		fs := vfs.Inject(mem, func(op vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case op.Kind == vfs.OpWrite, op.Kind == vfs.OpTruncate, op.Kind == vfs.OpDatasync:
				t.Errorf("%v of %s", op.Kind, op.Name)
			case op.Kind == vfs.OpRead && ctx.Err() != nil:
				reads++
			case op.Kind == vfs.OpRead:
				cancel()
			}
			return nil
		})
		if _, _, err := Open(ctx, fs, disktest.Store, chunkSize, quiet); !errors.Is(err, context.Canceled) || disk.Damaged(err) {
			t.Errorf("a log of more than %d bytes: %v", streamAbove, err)
		}
		if reads > 4 {
			t.Errorf("a log of more than %d bytes: %d reads after the end", streamAbove, reads)
		}
	}
}
