package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options of a mount. The zero value is the default.
type Options struct {
	// AllowOther lets users other than the one who mounts look at the tree: everybody reads the images then, the
	// live files stay their owner's alone.
	AllowOther bool
	// SharedLive lets live files be opened for writing while their volumes have devices: see sharedlive.go.
	SharedLive bool
	// Written is called when a shared live file was written: the kernel may keep old pages of the volume's device. It may
	// be called for several files at once, and may block. May be nil.
	Written func(volume string)
	// ForDevice says that the mount is there for a block device over its live files: they count as the device.
	ForDevice bool
	// MaxBackground bounds the requests that the kernel sends without waiting for each: read-ahead and asynchronous
	// direct I/O, which is all of a loop device's. 0 means 64.
	MaxBackground int
	// Logger takes warnings; nil means slog.Default().
	Logger *slog.Logger
}

func (o *Options) ensureDefaults() {
	if o.MaxBackground <= 0 {
		o.MaxBackground = 64
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// maxRequest is the largest read or write that the kernel sends, in bytes.
const maxRequest = 1 << 20

// stopTime is how long Unmount and ForceUnmount wait for the last request.
const stopTime = 10 * time.Second

// Server is a mount being served.
type Server struct {
	dir       string // absolute
	log       *slog.Logger
	device    uint64 // st_dev
	patience  time.Duration
	privately bool // mounted by this process, and not by fusermount3
	fuse      *fuse.Server
	tree      *tree
	done      chan struct{} // closed when the last request and handle are gone
	unmounted atomic.Bool
}

// Mount shows src at dir, an existing directory, and serves it in the background until it is unmounted, by Unmount
// or by anyone else. What a dead server left mounted there is removed first.
//
// ErrNoFUSE, ErrPermission and ErrMounted are the errors to expect.
func Mount(dir string, src Source, o Options) (*Server, error) {
	o.ensureDefaults()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved // as mountinfo has it; a dead mount can't be resolved, and stays as it was given
	}
	if err := clearDeadMount(dir, o.Logger); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	tree, raw := newTree(src, o)
	s := &Server{dir: dir, log: o.Logger, patience: stopTime, tree: tree, done: make(chan struct{})}
	if err := s.start(raw, o); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	var sharing sync.WaitGroup
	quit := make(chan struct{})
	if o.SharedLive {
		sharing.Go(func() { tree.share(quit) })
	}
	go func() {
		s.fuse.Serve()
		close(quit)
		sharing.Wait()
		tree.closeHandles()
		close(s.done)
	}()
	if err := s.settle(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), s.ForceUnmount())
	}
	return s, nil
}

// start mounts, and does FUSE's handshake.
func (s *Server) start(raw fuse.RawFileSystem, o Options) error {
	point, err := s.mount(o)
	if err != nil {
		return err
	}
	s.fuse, err = fuse.NewServer(raw, point, mountOptions(o))
	if err != nil && s.privately {
		return errors.Join(err, unmountForced(s.dir))
	}
	return err
}

// settle makes the mount safe to use from this very process, and learns its device number.
func (s *Server) settle() error {
	if err := s.fuse.WaitMount(); err != nil {
		return err
	}
	if err := refusePoll(s.dir); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(s.dir, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	s.device = st.Dev
	return nil
}

func mountOptions(o Options) *fuse.MountOptions {
	logger := slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn)
	return &fuse.MountOptions{
		Name:          fsName,
		FsName:        fsName,
		AllowOther:    o.AllowOther,
		Options:       []string{"default_permissions"},
		MaxBackground: o.MaxBackground,
		MaxWrite:      maxRequest,
		Logger:        logger,
		// A splice from an O_DIRECT tmpfs file returned one page, which go-fuse took for the end of the file.
		DisableSplice: true,
		DisableXAttrs: true,
		// READDIRPLUS would look up every entry of a listing that mostly nobody asks about.
		DisableReadDirPlus: true,
		// disk.img never changes, live is not cached: the kernel need not compare times before each cached read.
		ExplicitDataCacheControl: true,
		// ASYNC_DIO: a loop device's direct I/O in parallel. DIRECT_IO_ALLOW_MMAP: mmap of live. KILLPRIV_V2: no
		// look at xattrs before each write. ATOMIC_O_TRUNC: see O_TRUNC at open, where it can be refused.
		// NO_EXPORT_SUPPORT: see "File handles" in the package comment.
		ExtraCapabilities: fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_HANDLE_KILLPRIV_V2 |
			fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_NO_EXPORT_SUPPORT,
		PanicHandler: func(p any) fuse.Status {
			o.Logger.Error("panic in a request", "panic", p, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
}

// Dir is the absolute path of the mount.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the mount has ended and everything that it had open is closed.
func (s *Server) Wait() { <-s.done }

// Unmount ends the mount if nobody uses it, and returns ErrBusy otherwise.
func (s *Server) Unmount() error {
	if s.ended() || s.unmounted.Load() {
		return s.wait()
	}
	if err := unmountIdle(s.dir); err != nil {
		if s.ended() {
			return nil // by someone else meanwhile
		}
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	s.unmounted.Store(true)
	return s.wait()
}

// ForceUnmount ends the mount at once. Whoever has a file open gets ECONNABORTED or ENOTCONN, as does a loop device
// over one, which is then detached when its last user closes it.
func (s *Server) ForceUnmount() error {
	if s.ended() {
		return nil
	}
	if s.unmounted.Load() {
		// Not in this mount namespace any more, but in use in another.
		if err := abortConnection(s.device); err != nil && !s.ended() {
			return fmt.Errorf("abort the mount that was at %s: %w", s.dir, err)
		}
		return s.wait()
	}
	loops := loopsBelow(s.dir, s.log)
	defer detachLoops(loops, s.log)
	if err := unmountForced(s.dir); err != nil && !s.ended() {
		return fmt.Errorf("unmount %s by force: %w", s.dir, err)
	}
	s.unmounted.Store(true)
	if !s.privately { // it has left the tree, and who uses it does not know
		if err := abortConnection(s.device); err != nil && !s.ended() {
			s.log.Warn("what is open on the mount is not cut off", "mount", s.dir, "error", err)
		}
	}
	return s.wait()
}

func (s *Server) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *Server) wait() error {
	select {
	case <-s.done:
		return nil
	case <-time.After(s.patience):
		return fmt.Errorf("unmount %s: %w: a request is still running, or another mount namespace holds it",
			s.dir, ErrBusy)
	}
}
