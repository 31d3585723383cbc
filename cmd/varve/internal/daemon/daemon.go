// Package daemon serves one store: it answers the protocol, keeps volumes on device nodes and the store on mount
// points, and hands devices that are in use from one daemon to the next.
//
// The handler works without a daemon too: a command that finds none opens the store and asks a handler of its own
// (New with no transports), so that both ways answer alike.
package daemon

import (
	"cmp"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"varve/cmd/varve/internal/ballast"
	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
)

// Options of a Daemon. The zero value is a handler that only knows the store.
type Options struct {
	Logger  *slog.Logger
	Version string            // of the program, for Ping
	Flags   map[string]string // of the command line, for a successor

	ublk, loop transport // nil: requests for devices are answered with ErrNeedsDaemon
	mounter    mounter   // nil: requests for mounts are answered with ErrNeedsDaemon

	below func(dir string) ([]blockstack.Layer, error) // nil: blockstack.Below
	inst  instance.Instance                            // of the store
	// readAt reads a volume; nil: attach does not look at what a volume holds.
	readAt func(volume string, p []byte, off int64) error
	swaps  string       // the list of swap areas; "": swapsFile
	open   *descriptors // of the process; nil: counted from now on
}

// Daemon answers the protocol for one open store.
type Daemon struct {
	dir        string // the store, absolute
	files      string // a path to its files that leads there also when the store is moved
	store      Store
	log        *slog.Logger
	version    string
	flags      map[string]string
	inst       instance.Instance // of the store
	uuid       string            // that it is known by
	started    time.Time
	transports map[string]transport // "ublk", "loop"
	mounter    mounter
	below      func(path string) ([]blockstack.Layer, error) // what a directory, file or device lies on
	readAt     func(volume string, p []byte, off int64) error
	swapsFile  string

	open *descriptors // of the process

	// change is held through every change of devices and mounts, which may block; mu guards what lists show.
	// change is taken first.
	change   sync.Mutex
	unlisted bool // the kernel did not list all devices that may wait for us; guarded by change
	mu       sync.Mutex
	left     []string               // volumes whose devices may be left over
	attached map[string]*attachment // by volume
	waiting  map[string]*waiter     // by volume
	foreign  []protocol.Attachment  // devices that are not ours although our list had them
	starting string                 // the volume whose device is being made
	mounts   map[string]*mount      // by directory
	restore  restoration            // what the next daemon brings back, or this one has not yet
	stopping bool
	// stateFrozen keeps the list on disk as it is, while what is on it goes from one daemon to the next.
	stateFrozen bool

	handing    atomic.Bool    // a handover is under way
	successors chan *handover // who is ready to take over

	checking sync.Mutex // one check at a time

	reviveAfter   time.Duration
	retryFirst    time.Duration
	answerTimeout time.Duration
	waits         chan struct{} // full: no more requests may wait for snapshots

	stop     chan struct{} // closed when a client asked for the end
	stopOnce sync.Once
	watchers sync.WaitGroup
}

type attachment struct {
	protocol.Attachment
	dev     device
	began   time.Time
	leaving bool // we take it away: its end is no surprise
}

type mount struct {
	protocol.Mount
	m       mounted
	leaving bool
}

// New gives a Daemon over an open store, which stays the caller's to close after Close.
func New(dir string, store Store, o Options) *Daemon {
	d := &Daemon{
		dir:        dir,
		files:      dir,
		store:      store,
		log:        o.Logger,
		version:    o.Version,
		flags:      o.Flags,
		started:    time.Now(),
		transports: map[string]transport{},
		mounter:    o.mounter,
		below:      o.below,
		inst:       o.inst,
		readAt:     o.readAt,
		swapsFile:  cmp.Or(o.swaps, swapsFile),
		attached:   map[string]*attachment{},
		waiting:    map[string]*waiter{},
		mounts:     map[string]*mount{},
		stop:       make(chan struct{}),
		successors: make(chan *handover, 1),

		reviveAfter:   reviveAfter,
		retryFirst:    retryFirst,
		answerTimeout: server.AnswerTimeout,
		waits:         make(chan struct{}, maxWaits),
	}
	if d.open = o.open; d.open == nil {
		d.open = &descriptors{}
	}
	if d.below == nil {
		d.below = blockstack.Below
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if st, err := store.Stat(); err == nil {
		d.uuid = st.UUID
	}
	if o.ublk != nil {
		d.transports["ublk"] = o.ublk
	}
	if o.loop != nil {
		d.transports["loop"] = o.loop
	}
	return d
}

// Stopping is closed when a client asked the daemon to end.
func (d *Daemon) Stopping() <-chan struct{} { return d.stop }

func (d *Daemon) ping() protocol.Ping {
	return protocol.Ping{
		Protocol: protocol.Version,
		Version:  d.version,
		PID:      os.Getpid(),
		Store:    d.place(),
		UUID:     d.uuid,
		Started:  d.started.UTC().Truncate(time.Second),
	}
}

// place is where the store is now.
func (d *Daemon) place() string {
	at, err := os.Readlink(d.files)
	if err != nil || !strings.HasPrefix(d.files, "/proc/") || strings.HasSuffix(at, " (deleted)") {
		return d.dir
	}
	return at
}

// isDaemon: a command's own handler has no transports and no mounts.
func (d *Daemon) isDaemon() bool { return len(d.transports) > 0 || d.mounter != nil }

// save writes the state; mu is held. A state that can't be written costs a takeover, not data.
func (d *Daemon) save() {
	if !d.isDaemon() || d.stateFrozen {
		return
	}
	s := state{
		Store: d.inst.UUID, Instance: d.inst.ID, Boot: bootID(), Attached: d.attachments(), Mounts: d.mountList(), Foreign: d.foreign,
		Restore: d.restore.devices,
	}
	s.Mounts = append(s.Mounts, d.restore.mounts...)
	for _, w := range d.waiting {
		s.Attached = append(s.Attached, w.Attachment)
	}
	for _, a := range d.restore.noted {
		if !slices.ContainsFunc(s.Attached, func(k protocol.Attachment) bool { return k.Device == a.Device }) {
			s.Attached = append(s.Attached, a)
		}
	}
	s.Starting = slices.Clone(d.restore.starting)
	if d.starting != "" {
		s.Starting = append(s.Starting, d.starting)
	}
	if err := ballast.With(d.files, func() error { return s.write(d.files) }); err != nil {
		d.log.Error("a next daemon may not find these devices: the list of them was not written", "error", err)
	}
}
