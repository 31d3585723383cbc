package record

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"varve/objstore/internal/disk"
	"varve/objstore/vfs"
)

// A log whose sync has failed takes no more frames, though the next sync would succeed: nobody knows what is durable.
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
	l, err = Open(fs, []string{"log"}, goldenID, false, func(p []byte) error { got = append(got, string(p)); return nil })
	must(t, err)
	must(t, l.Close())
	if len(got) != 1 || got[0] != "two" {
		t.Errorf("the log holds %q, want only what was taken", got)
	}
}
