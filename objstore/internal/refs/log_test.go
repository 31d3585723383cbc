package refs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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
			recs[j] = Record{Op: OpSnapshot, ID: disktest.Volume, Name: fmt.Sprintf("auto-%0100d", i+j), Root: root.String(), Logical: 1}
		}
		must(t, l.Append(recs))
	}
	must(t, l.Close())
	return mem
}

// A log is read in pieces, whether it is good, torn or damaged.
func TestLogIsReadInPieces(t *testing.T) {
	const n, piece = 12000, 1 << 20
	mem := longLog(t, n)
	size := int64(len(disktest.ReadFile(t, mem, LogFile)))
	if size < 3*piece {
		t.Fatalf("a log of %d bytes is too short for the test", size)
	}
	end := int64(0)
	var mu sync.Mutex
	largest := int64(0) // guarded by mu
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == vfs.OpRead || op.Kind == vfs.OpWrite {
			largest = max(largest, op.Len)
		}
		return nil
	})
	open := func(damage int) {
		t.Helper()
		largest = 0
		l, s, err := Open(t.Context(), fs, disktest.Store, chunkSize, quiet)
		must(t, err)
		if largest == 0 || largest > piece+piece/4 {
			t.Errorf("a log of %d bytes was read or written in pieces of up to %d", size, largest)
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
	open(0)
	change := func(name string, off int64, b []byte) {
		t.Helper()
		f, err := mem.Open(name)
		must(t, err)
		_, err = f.WriteAt(b, off)
		must(t, err)
		must(t, f.Close())
	}
	want := disktest.ReadFile(t, mem, LogFile)
	change(LogCopy, size/2, []byte("not what was there"))
	change(LogFile, size/3, []byte("nor here"))
	change(LogFile, size-200, []byte("nor there"))
	open(2)
	for _, name := range LogFiles {
		if !bytes.Equal(disktest.ReadFile(t, mem, name), want) {
			t.Errorf("%s is not what it was before the damage", name)
		}
	}
	open(0)
	for _, name := range LogFiles { // a frame that a power cut has torn
		change(name, end, []byte("torn, and never answered"))
	}
	open(0)
	open(0)
}

// The reading of a log ends with its context, before it is read to the end, and changes nothing.
func TestContextEndsOpening(t *testing.T) {
	mem := longLog(t, 12000)
	for _, at := range []int{1, 2, 3, 5} { // the read after which ctx ends
		ctx, cancel := context.WithCancel(t.Context())
		reads := 0
		var mu sync.Mutex
		fs := vfs.Inject(mem, func(op vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if slices.Contains([]vfs.Kind{vfs.OpWrite, vfs.OpTruncate, vfs.OpDatasync}, op.Kind) {
				t.Errorf("%v of %s", op.Kind, op.Name)
			}
			if op.Kind != vfs.OpRead {
				return nil
			}
			if reads++; reads == at {
				cancel()
			}
			return nil
		})
		if _, _, err := Open(ctx, fs, disktest.Store, chunkSize, quiet); !errors.Is(err, context.Canceled) || disk.Damaged(err) {
			t.Errorf("ended after read %d: %v", at, err)
		}
		if reads > at {
			t.Errorf("ended after read %d: %d reads behind it", at, reads-at)
		}
	}
}
