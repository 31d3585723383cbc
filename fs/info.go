package fs

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"varve/objstore"
)

// volumeJSON is volumes/NAME/info.json.
type volumeJSON struct {
	objstore.VolumeInfo
	// Device is the path of the device that the volume is attached to, if any.
	Device string `json:"device,omitempty"`
}

// attachedDevice returns the path of the device among a volume's users, which look like "ublk
// /dev/ublkb0".
func attachedDevice(users []string) string {
	for _, u := range users {
		if _, dev, ok := strings.Cut(u, " /dev/"); ok {
			return "/dev/" + dev
		}
	}
	return ""
}

// infoFile is an info.json. It is rendered at each open and read from the handle, so a reader sees
// one consistent text.
type infoFile struct {
	base
	describe func() (any, error)
}

func newInfo(t *tree, ino uint64, describe func() (any, error)) *infoFile {
	return &infoFile{base: base{t: t, ino: ino}, describe: describe}
}

func (f *infoFile) stable() fusefs.StableAttr {
	return fusefs.StableAttr{Mode: unix.S_IFREG, Ino: f.ino}
}

func (f *infoFile) render() ([]byte, error) {
	v, err := f.describe()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(v, "", "  ")
	return append(text, '\n'), err
}

func (f *infoFile) attr(_ context.Context, a *fuse.Attr) error {
	text, err := f.render()
	if err != nil {
		return err
	}
	f.fill(a, 0o444, time.Now())
	setSize(a, int64(len(text)), int64(len(text)))
	return nil
}

// Getattr returns the size of the open handle's text, if there is one, and of a newly rendered text
// otherwise.
func (f *infoFile) Getattr(ctx context.Context, h fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if text, ok := h.(infoText); ok {
		f.fill(&out.Attr, 0o444, time.Now())
		setSize(&out.Attr, int64(len(text)), int64(len(text)))
		return 0
	}
	return f.t.fail("getattr", "info.json", f.attr(ctx, &out.Attr))
}

// Open renders the text.
func (f *infoFile) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, unix.EROFS
	}
	text, err := f.render()
	if err != nil {
		return nil, 0, f.t.fail("open", "info.json", err)
	}
	return infoText(text), fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

// infoText is an open info.json.
type infoText []byte

// Read reads the text as it was rendered at open.
func (t infoText) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off >= int64(len(t)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, t[off:])]), 0
}
