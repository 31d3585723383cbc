// Package daemon serves one store: it answers the protocol, attaches volumes to device nodes,
// mounts the store, and hands devices that are in use over from one daemon to the next.
//
// Run is a daemon's life. It owns the store (package server), opens it, takes over the devices of
// the daemon before it, and serves requests until a signal, a request to stop, or a successor:
//
//	Run ── own the store ── open ─┬─ Takeover: what a daemon that died has left ──┬─ serve ─┬─ Release: detach, or leave waiting
//	                              └─ takeFrom: what a living one hands over ──────┘         └─ letGo: hand over
//
// A Daemon composes its parts, each with its own lock: the table of devices (package devices) and
// the transports that make them (ublk.go, loop.go), the mounts (mountTable, fuse.go), the identity
// of the store, checks, automatic snapshots, the watch for swap, the server and the handover. The
// methods that answer requests are named serve…; routes.go lists them. Those that concern the store
// alone belong to storeRequests. A device or mount has one
// change at a time, which has its turn (type turns) for as long as the change takes; a change that
// is stuck in the kernel delays no other. The locks of the tables are never held over I/O. Every
// goroutine that watches a device or a mount belongs to Daemon.watchers, and Run waits for all of
// them.
//
// The handler also works without a daemon: a command that finds none opens the store and asks a
// handler in its own process (Local: New without transports), so that both ways answer alike.
package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"varve/cmd/varve/internal/blockstack"
	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/cmd/varve/internal/targets"
	"varve/objstore/vfs"
)

// Options of a Daemon. The zero value is a handler without devices and mounts.
type Options struct {
	Logger  *slog.Logger
	Version string            // of the program, for Ping
	Flags   map[string]string // of the command line, for a successor

	ublk, loop devices.Transport // nil: requests for devices are answered with ErrNeedsDaemon
	mounter    mounter           // nil: requests for mounts are answered with ErrNeedsDaemon

	below func(dir string) ([]blockstack.Layer, error) // nil: blockstack.Below
	inst  instance.Instance                            // of the store
	files string                                       // a path to the store that stays valid when it is moved; "": dir
	// readAt reads a volume; nil: attach does not look at what a volume holds.
	readAt func(volume string, p []byte, off int64) error
	swaps  string       // the list of swap areas; "": swapsFile
	open   *descriptors // of the process; nil: counted from now on
}

// Daemon answers the protocol for one open store.
type Daemon struct {
	dir        string // the store, absolute
	files      string // a path to its files that stays valid when the store is moved
	store      Store
	log        *slog.Logger
	version    string
	flags      map[string]string
	inst       instance.Instance // of the store
	identity   *identity
	started    time.Time
	transports map[string]devices.Transport                  // "ublk", "loop"
	below      func(path string) ([]blockstack.Layer, error) // what a directory, file or device lies on
	readAt     func(volume string, p []byte, off int64) error

	open *descriptors // of the process

	table *devices.Table

	targets targetDevices

	mounts *mountTable

	turns    *turns      // of changes of devices and mounts
	unlisted atomic.Bool // it is not known which devices wait for us

	scratch sync.Mutex // held while a scratch volume is made, and while those without a device are deleted
	naming  sync.Mutex // held while a volume or snapshot is renamed, and while a device of one enters the table

	handing    atomic.Bool              // a handover is under way
	successors chan *handover.Successor // ready to take over; at most one

	checks    *checks
	automatic *automatic
	swaps     *swaps

	requests *storeRequests // those that concern no device or mount

	openLimit       time.Duration                               // of a target's files
	takeTargetAgain func(context.Context, targets.Record) error // takeWaitingTarget

	reviveAfter time.Duration
	retryFirst  time.Duration
	patience    time.Duration

	stop     chan struct{} // closed when a client asked for the end
	stopOnce sync.Once
	watchers sync.WaitGroup
}

// New returns a Daemon over an open store, which stays the caller's to close after Release.
func New(dir string, store Store, o Options) *Daemon {
	d := &Daemon{
		dir:        dir,
		files:      cmp.Or(o.files, dir),
		store:      store,
		log:        o.Logger,
		version:    o.Version,
		flags:      o.Flags,
		started:    time.Now(),
		transports: map[string]devices.Transport{},
		below:      o.below,
		inst:       o.inst,
		readAt:     o.readAt,
		stop:       make(chan struct{}),
		successors: make(chan *handover.Successor, 1),

		turns: newTurns(),

		openLimit:   openLimit,
		reviveAfter: reviveAfter,
		retryFirst:  retryFirst,
		patience:    answersWithin,
	}
	d.takeTargetAgain = d.takeWaitingTarget
	if d.open = o.open; d.open == nil {
		d.open = &descriptors{}
	}
	if d.below == nil {
		d.below = blockstack.Below
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.table = devices.New(o.table(d))
	d.checks = &checks{store: store, log: d.log}
	d.automatic = &automatic{store: store, delete: d.deleteSnapshot, log: d.log}
	d.swaps = &swaps{file: cmp.Or(o.swaps, swapsFile), below: d.below, nodes: d.ownNodes, log: d.log}
	d.identity = &identity{inst: d.inst, files: d.files, store: store, table: d.table, log: d.log}
	if st, err := store.Stat(); err == nil {
		d.identity.uuid = st.UUID
	}
	d.mounts = &mountTable{
		mounter: o.mounter, devices: d, save: d.table.SetMounts, watchers: &d.watchers, log: d.log, byDir: map[string]*mount{},
	}
	if o.ublk != nil {
		d.transports["ublk"] = o.ublk
	}
	if o.loop != nil {
		d.transports["loop"] = o.loop
	}
	d.requests = &storeRequests{
		store: store, checks: d.checks, stays: d.isDaemon(), waits: make(waitLimit, maxWaits), answerTimeout: server.AnswerTimeout, log: d.log,
	}
	return d
}

func (d *Daemon) ping() protocol.Ping {
	return protocol.Ping{
		Protocol: protocol.Version,
		Version:  d.version,
		PID:      os.Getpid(),
		Store:    d.location(),
		UUID:     d.identity.UUID(),
		Started:  d.started.UTC().Truncate(time.Second),
	}
}

// location returns where the store is now.
func (d *Daemon) location() string {
	at, err := os.Readlink(d.files)
	if err != nil || !strings.HasPrefix(d.files, "/proc/") || strings.HasSuffix(at, " (deleted)") {
		return d.dir
	}
	return at
}

// isDaemon reports whether this is a daemon: a handler in a command's process has no transports and
// does not mount.
func (d *Daemon) isDaemon() bool { return len(d.transports) > 0 || d.mounts.mounter != nil }

// table returns the options of the table of devices. A handler in a command's process writes no
// list.
func (o *Options) table(d *Daemon) devices.Options {
	t := devices.Options{Instance: d.inst, Boot: boot(d.log), Logger: d.log}
	if o.ublk != nil || o.loop != nil || o.mounter != nil {
		t.Dir = d.files
	}
	return t
}

// boot returns the ID of the machine's boot, or "" if the kernel does not tell.
func boot(log *slog.Logger) string {
	id, err := vfs.BootID()
	if err != nil {
		log.Warn("the boot is unknown: devices of another boot are not recognized", "error", err)
	}
	return id
}
