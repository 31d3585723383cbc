package fs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

// maxDiffName is the length of the longest name of a diff, in bytes.
const maxDiffName = 2*(2*objstore.MaxName+len("@")) + len("..")

// diffsListing is MOUNT/diff. It lists nothing: every two images have a diff, which is there when
// it is looked up.
type diffsListing struct{ t *tree }

// find returns the diff FROM..TO. Names of images may have dots; the first of the splits counts
// that is of two images.
func (l diffsListing) find(_ context.Context, name string) (node, error) {
	for at := 0; ; at++ {
		next := strings.Index(name[at:], "..")
		if next < 0 {
			return nil, objstore.ErrNotFound
		}
		at += next
		from, to := name[:at], name[at+len(".."):]
		f := &diffFile{
			base: base{t: l.t, ino: inode("diff", name)}, name: name,
			from: objstore.ParseImageName(from), to: objstore.ParseImageName(to),
		}
		if at++; f.from.String() != from || f.to.String() != to { // an '@' with nothing behind it
			continue
		}
		err := f.check()
		if err == nil || !errors.Is(err, objstore.ErrNotFound) && !errors.Is(err, objstore.ErrInvalid) {
			return f, err
		}
	}
}

func (l diffsListing) list(context.Context) ([]fuse.DirEntry, error) { return nil, nil }

func (l diffsListing) check() (time.Time, error) { return l.t.started, nil }

// diffFile is a diff/FROM..TO. Its text is made as it is read and is kept nowhere, for it may be of
// any length. So its size is not known, and is 0 as that of files in /proc.
type diffFile struct {
	base
	name     string
	from, to objstore.ImageName
}

// check returns ErrNotFound unless both images are there.
func (f *diffFile) check() error {
	for _, n := range []objstore.ImageName{f.from, f.to} {
		var err error
		if n.Snapshot == "" {
			_, err = f.t.src.VolumeInfo(n.Volume)
		} else {
			_, err = f.t.src.SnapshotInfo(n.Volume, n.Snapshot)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *diffFile) path() string { return "diff/" + f.name }

func (f *diffFile) stable() fusefs.StableAttr {
	return fusefs.StableAttr{Mode: unix.S_IFREG, Ino: f.ino}
}

func (f *diffFile) attr(_ context.Context, a *fuse.Attr) error {
	if err := f.check(); err != nil {
		return err
	}
	f.fill(a, f.t.imageMode, time.Now())
	setSize(a, 0, 0)
	return nil
}

// Getattr serves stat(2).
func (f *diffFile) Getattr(ctx context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return f.t.fail("getattr", f.path(), f.attr(ctx, &out.Attr))
}

// Open opens for reading. The images are compared as they are at the first read.
func (f *diffFile) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		return nil, 0, unix.EROFS
	}
	h := &diffHandle{f: f}
	h.handle = f.t.newHandle(f.path(), h.end)
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

// diffHandle is an open diff. A goroutine of it compares the images, and writes the text into a
// pipe as fast as it is read; end waits for it.
type diffHandle struct {
	*handle
	f *diffFile

	mu     sync.Mutex
	text   net.Conn // the pipe, whose reads take a deadline; nil: not begun
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	failed error         // of the goroutine; read when done is closed
	at     int64         // offset of the text's next byte
}

// begin starts the text at its beginning.
// REQUIRES: h.mu is held.
func (h *diffHandle) begin() {
	h.stop()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := net.Pipe()
	done := make(chan struct{})
	h.text, h.cancel, h.done, h.failed, h.at = r, cancel, done, nil, 0
	go func() {
		defer close(done)
		out := bufio.NewWriterSize(w, 32<<10)
		err := h.f.write(ctx, out)
		if err == nil {
			err = out.Flush()
		}
		h.failed = err
		_ = w.Close() // it returns no error
	}()
}

// write writes the text of the diff: a line for what is compared, one for each change, and one for
// their sum, without which the text is not whole.
func (f *diffFile) write(ctx context.Context, out io.Writer) error {
	enc := json.NewEncoder(out)
	total, err := f.t.src.Diff(ctx, f.from, f.to, func(i objstore.DiffImages) error { return enc.Encode(i) },
		func(c objstore.Change) error { return enc.Encode(c) })
	if err != nil {
		return err
	}
	return enc.Encode(total)
}

// stop ends the goroutine, if there is one.
// REQUIRES: h.mu is held.
func (h *diffHandle) stop() {
	if h.text == nil {
		return
	}
	h.cancel()
	_ = h.text.Close() // it returns no error
	<-h.done
	h.text = nil
}

// end is the handle's release.
func (h *diffHandle) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop()
	return nil
}

// Read serves read(2), from the beginning to the end: a read at offset 0 begins again, and one
// behind what comes next skips.
func (h *diffHandle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.text == nil || off == 0 && h.at > 0 {
		h.begin()
	}
	if off < h.at {
		return nil, unix.ESPIPE
	}
	defer h.interruptible(ctx)()
	n, err := io.CopyN(io.Discard, h.text, off-h.at)
	h.at += n
	if err == nil {
		var got int
		got, err = io.ReadFull(h.text, dest)
		h.at += int64(got)
		if dest = dest[:got]; got > 0 {
			err = nil // it shows at the next read
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, unix.EINTR
	case errors.Is(err, io.EOF):
		<-h.done
		if h.failed != nil {
			return nil, h.t.fail("read", h.path, h.failed)
		}
		return fuse.ReadResultData(nil), 0
	case err != nil:
		return nil, h.t.fail("read", h.path, err)
	}
	return fuse.ReadResultData(dest), 0
}

// interruptible lets the end of ctx end reads of the text, which may wait for the images to settle,
// until the function that it returns is called. The text continues where they were.
// REQUIRES: h.mu is held.
func (h *diffHandle) interruptible(ctx context.Context) (end func()) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = h.text.SetReadDeadline(time.Unix(1, 0)) // it is open, and returns no error
	})
	return func() {
		if !stop() {
			<-ended
		}
		_ = h.text.SetReadDeadline(time.Time{})
	}
}
