package record

import (
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// A log whose sync has failed takes no more frames, though the next sync would succeed: nobody
// knows what is durable.
func TestNoAppendAfterFailedSync(t *testing.T) {
	fails := false
	fs := vfs.Inject(vfs.NewMem(0), func(op vfs.Op) error {
		if fails && op.Kind == vfs.OpDatasync {
			return unix.EIO
		}
		return nil
	})
	l, err := Create(fs, "log", goldenID)
	must(t, err)
	must(t, l.Append([]byte("one")))
	fails = true
	if err := l.Append([]byte("two")); !errors.Is(err, unix.EIO) {
		t.Fatalf("append: %v, want the error of its sync", err)
	}
	fails = false
	if err := l.Append([]byte("three")); !errors.Is(err, disk.ErrUnsynced) {
		t.Errorf("append after a failed sync: %v, want ErrUnsynced", err)
	}
	must(t, l.Close())
}

// A frame for which there was no room, or that was too long, leaves the log as it was.
func TestAppendAfterRefusedFrame(t *testing.T) {
	var refuse error
	fs := vfs.Inject(vfs.NewMem(0), func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite {
			return refuse
		}
		return nil
	})
	l, err := Create(fs, "log", goldenID)
	must(t, err)
	for _, refuse = range []error{unix.ENOSPC, unix.ENOMEM} {
		if err := l.Append([]byte("one")); !errors.Is(err, refuse) {
			t.Fatalf("append: %v, want %v", err, refuse)
		}
	}
	refuse = nil
	if err := l.Append(make([]byte, MaxPayload+1)); !errors.Is(err, disk.ErrInvalid) {
		t.Fatalf("append of too much: %v, want ErrInvalid", err)
	}
	must(t, l.Append([]byte("two")))
	must(t, l.Close())
	var got []string
	l, err = Open(t.Context(), fs, []string{"log"}, goldenID, false, func(p []byte) error { got = append(got, string(p)); return nil })
	must(t, err)
	must(t, l.Close())
	if len(got) != 1 || got[0] != "two" {
		t.Errorf("the log holds %q, want only what was taken", got)
	}
}

// The last frame of a log that replaces other records is damaged after a power cut: it does not
// pass for a frame that was never complete.
func TestDraftThatRots(t *testing.T) {
	for disk := range uint64(8) {
		mem := vfs.NewMem(0)
		l, err := Create(mem, "log", goldenID)
		must(t, err)
		must(t, l.Draft([]byte("one")))
		must(t, l.Draft([]byte("two")))
		must(t, l.SyncDraft())
		must(t, mem.SyncDir("."))
		mem = mem.PowerCut(rand.New(rand.NewPCG(disk, 1)))
		f, err := mem.Open("log")
		must(t, err)
		_, err = f.WriteAt([]byte{0xee}, l.last+frameHeader)
		must(t, err)
		must(t, f.Close())
		if l, err = Open(t.Context(), mem, []string{"log"}, goldenID, false, func([]byte) error { return nil }); err == nil {
			t.Errorf("disk %d: the log opens with %d bytes, as if its last frame had never been written", disk, l.Size())
			must(t, l.Close())
		}
	}
}
