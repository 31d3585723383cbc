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
	// AllowOther lets users other than the mounting one read the images. Live files stay accessible
	// to their owner only.
	AllowOther bool
	// SharedLive lets live files be opened for writing while their volumes are attached to devices:
	// see sharedlive.go.
	SharedLive bool
	// Written, if not nil, is called after a shared live file was written, as the kernel may cache
	// outdated pages of the volume's device. It may be called for several files concurrently, and
	// may block.
	Written func(volume string)
	// ForDevice says that the mount exists for block devices over its live files: opening one
	// counts as attaching the volume.
	ForDevice bool
	// MaxBackground bounds the asynchronous requests in flight: read-ahead and asynchronous direct
	// I/O, which includes all I/O of a loop device. 0 means 64.
	MaxBackground int
	// Logger receives warnings; nil means slog.Default().
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

// stopTimeout bounds how long Unmount and ForceUnmount wait for the last request.
const stopTimeout = 10 * time.Second

// Server is a mount being served.
type Server struct {
	dir       string // absolute
	log       *slog.Logger
	device    uint64        // st_dev
	timeout   time.Duration // stopTimeout, except in tests
	direct    bool          // mounted by this process and not by fusermount3
	fuse      *fuse.Server
	tree      *tree
	done      chan struct{} // closed when the last request is answered and the last handle is closed
	unmounted atomic.Bool
}

// Mount mounts src on dir, an existing directory, and serves it in the background until it is
// unmounted, by Unmount or by anyone else. A dead server's mount on dir is removed first.
//
// Errors include ErrNoFUSE, ErrPermission and ErrMounted.
func Mount(dir string, src Source, o Options) (*Server, error) {
	o.ensureDefaults()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved // as in mountinfo; a dead mount's path can't be resolved and stays as given
	}
	if err := clearDeadMount(dir, o.Logger); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	tree, raw := newTree(src, o)
	s := &Server{dir: dir, log: o.Logger, timeout: stopTimeout, tree: tree, done: make(chan struct{})}
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
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), s.ForceUnmount())
	}
	return s, nil
}

// start mounts the file system and completes the FUSE handshake.
func (s *Server) start(raw fuse.RawFileSystem, o Options) error {
	point, err := s.mount(o)
	if err != nil {
		return err
	}
	s.fuse, err = fuse.NewServer(raw, point, mountOptions(o))
	if err != nil && s.direct {
		return errors.Join(err, unmountForced(s.dir))
	}
	return err
}

// prepare makes the mount safe to use from this process, and reads its device number.
func (s *Server) prepare() error {
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
		// A splice from an O_DIRECT tmpfs file returns one page, which go-fuse takes for the end of
		// the file.
		DisableSplice: true,
		DisableXAttrs: true,
		// READDIRPLUS would look up every entry of a listing, although few programs ask for them.
		DisableReadDirPlus: true,
		// disk.img never changes and live is not cached: the kernel need not compare times before
		// each cached read.
		ExplicitDataCacheControl: true,
		// ASYNC_DIO: a loop device's direct I/O runs in parallel. DIRECT_IO_ALLOW_MMAP: mmap of
		// live. KILLPRIV_V2: no xattr lookup before each write. ATOMIC_O_TRUNC: Open sees O_TRUNC
		// and can refuse it. NO_EXPORT_SUPPORT: see "File handles" in the package comment.
		ExtraCapabilities: fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_HANDLE_KILLPRIV_V2 |
			fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_NO_EXPORT_SUPPORT,
		PanicHandler: func(p any) fuse.Status {
			o.Logger.Error("panic in a request", "panic", p, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
}

// Dir returns the absolute path of the mount.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the mount has ended and all its handles are closed.
func (s *Server) Wait() { <-s.done }

// Unmount ends the mount, or returns ErrBusy if it is in use.
func (s *Server) Unmount() error {
	if s.ended() || s.unmounted.Load() {
		return s.wait()
	}
	if err := unmountIdle(s.dir); err != nil {
		if s.ended() {
			return nil // unmounted by another process meanwhile
		}
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	s.unmounted.Store(true)
	return s.wait()
}

// ForceUnmount ends the mount at once. I/O on open files fails with ECONNABORTED or ENOTCONN. A
// loop device over a file of the mount gets these errors too, and is detached when its last user
// closes it.
func (s *Server) ForceUnmount() error {
	if s.ended() {
		return nil
	}
	if s.unmounted.Load() {
		// Gone from this mount namespace but still in use in another.
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
	if !s.direct { // fusermount3 only detached the mount; its open files still work
		if err := abortConnection(s.device); err != nil && !s.ended() {
			s.log.Warn("cannot abort the connection: files open on the mount stay usable", "mount", s.dir, "error", err)
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
	case <-time.After(s.timeout):
		return fmt.Errorf("unmount %s: %w: a request is still running, or another mount namespace holds it",
			s.dir, ErrBusy)
	}
}
