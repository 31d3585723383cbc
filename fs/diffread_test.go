package fs

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore"
)

// pausingSource compares two images as often as something arrives on next: once before the first
// line of the text, and once before the last.
type pausingSource struct {
	*fakeSource
	next chan struct{}
}

func (s *pausingSource) Diff(ctx context.Context, from, to objstore.ImageName, begin func(objstore.DiffImages) error,
	changed func(objstore.Change) error,
) (objstore.DiffTotal, error) {
	pause := func() error {
		select {
		case <-s.next:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := pause(); err != nil {
		return objstore.DiffTotal{}, err
	}
	total, err := s.fakeSource.Diff(ctx, from, to, begin, func(c objstore.Change) error {
		for range 2000 { // more than what is buffered
			if err := changed(c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return total, err
	}
	return total, pause()
}

// A read that a signal ends, before the text begins or in the middle of it, takes nothing from the
// next one, which goes on where the text was.
func TestDiffReadIsInterrupted(t *testing.T) {
	src := &pausingSource{newFakeSource(), make(chan struct{}, 1)}
	src.create("a", mib)
	src.create("b", mib)
	tr, _ := newTree(src, Options{Logger: slog.New(slog.DiscardHandler)})
	n, err := diffsListing{tr}.find(t.Context(), "a..b")
	must(t, err)
	opened, _, errno := n.(*diffFile).Open(t.Context(), unix.O_RDONLY)
	if errno != 0 {
		t.Fatal(errno)
	}
	h := opened.(*diffHandle)
	defer func() { _ = h.Release(t.Context()) }()
	text := strings.Builder{}
	read := func(ctx context.Context) (int, unix.Errno) {
		buf := make([]byte, 128<<10)
		r, errno := h.Read(ctx, buf, int64(text.Len()))
		if errno != 0 {
			return 0, errno
		}
		b, _ := r.Bytes(buf)
		text.Write(b)
		return len(b), 0
	}
	interrupted := func() (int, unix.Errno) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return read(ctx)
	}
	for range 2 {
		if n, errno := interrupted(); errno != unix.EINTR {
			t.Fatalf("before the text begins: %d bytes, %v; want EINTR", n, errno)
		}
	}
	src.next <- struct{}{}
	for {
		n, errno := interrupted()
		if errno == unix.EINTR {
			break
		}
		if errno != 0 || n == 0 {
			t.Fatalf("in the middle: %d bytes, %v; want more, or EINTR", n, errno)
		}
	}
	if text.Len() == 0 {
		t.Fatal("no text before its end")
	}
	src.next <- struct{}{}
	for {
		n, errno := read(t.Context())
		if errno != 0 {
			t.Fatal(errno)
		}
		if n == 0 {
			break
		}
	}
	if lines := strings.Split(text.String(), "\n"); len(lines) != 2003 || !strings.Contains(lines[2001], "ranges") {
		t.Errorf("%d lines, the last one %q", len(lines)-1, lines[max(len(lines)-2, 0)])
	}
}
