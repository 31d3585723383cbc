package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
	"varve/objstore/failpoint"
	"varve/objstore/vfs"
)

// RunOptions of a daemon. The zero value is the default.
type RunOptions struct {
	Logger  *slog.Logger
	Version string
	// Process says how the process is prepared; the daemon itself sets Unlocked.
	Process ProcessOptions
	// Store are the limits of the open store.
	Store objstore.Options
	// Flags are those of the command line, by name. A successor inherits them unless its own
	// command line differs.
	Flags map[string]string
	// Predecessor is a daemon to take over from; nil: none.
	Predecessor *handover.Predecessor
	// Ready is called once, when the socket answers; after a handover with its report, otherwise
	// with nil.
	Ready func(*protocol.Upgraded)
}

const (
	// shutdownTimeout bounds the wait for answers that are under way when the daemon ends.
	shutdownTimeout = 5 * time.Second
	// endsTimeout bounds the wait for the end of devices and mounts that were released.
	endsTimeout = 10 * time.Second
)

// Run serves the store at dir, an absolute path, until ctx ends, a client asks for the end, or a
// successor has taken over. Devices that are open then wait for the next daemon.
func Run(ctx context.Context, dir string, o RunOptions) (err error) {
	if o.Ready == nil {
		o.Ready = func(*protocol.Upgraded) {}
	}
	files := vfs.OS(dir)
	defer func() { _ = files.Close() }()       // a handle only
	if at, err := files.Handle(); err == nil { // otherwise opening the store fails with the reason
		o.Process.Unlocked = filepath.Join(at, objstore.IndexDir)
	}
	defer PrepareProcess(o.Logger, o.Process)() // before it owns the store: from then on I/O may be waiting
	own, err := o.own(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	for {
		h, err := session(ctx, own, &o)
		if h == nil || err != nil {
			return err
		}
		failpoint.Here(failpoint.UpgradeClosed)
		if h.Give(own) {
			failpoint.Here(failpoint.UpgradeEnded)
			o.Logger.Info("a successor has taken over", "pid", h.Hello.PID, "version", h.Hello.Version)
			return own.Cede()
		}
		// The successor is dead: the store and its devices are free again, and this daemon
		// continues.
		o.Predecessor, o.Ready = nil, func(*protocol.Upgraded) {}
	}
}

// own takes over the ownership of the predecessor, or takes the store if there is none.
func (o *RunOptions) own(dir string) (*server.Ownership, error) {
	if p := o.Predecessor; p != nil {
		own, err := p.Receive(dir, o.Logger)
		if !errors.Is(err, handover.ErrClosed) {
			return own, err
		}
		o.Logger.Warn("the earlier daemon died while it handed over; going on as after a crash", "pid", p.PID())
		p.Close()
		o.Predecessor = nil
	}
	return server.Own(dir, o.Logger)
}

// session opens the store, serves it, and closes it. It returns the successor to which this daemon
// is to hand over the store, if any.
func session(ctx context.Context, own *server.Ownership, o *RunOptions) (h *handover.Successor, err error) {
	log := o.Logger
	o.Store.Lock = own.Lock()
	store, err := OpenStore(ctx, own.Dir(), log, o.Store)
	if err != nil {
		return nil, o.Predecessor.Refuse(err)
	}
	if o.Predecessor != nil {
		failpoint.Here(failpoint.UpgradeOpened)
	}
	st, err := store.Stat()
	if err != nil {
		return nil, errors.Join(o.Predecessor.Refuse(err), store.Close())
	}
	log.Info("store is open", "store", own.Dir(), "uuid", st.UUID, "volumes", st.Volumes, "snapshots", st.Snapshots,
		"seconds", st.OpenTime, "read_only", st.ReadOnly)
	defer func() {
		cerr := store.Close()
		switch {
		case cerr == nil:
			log.Info("store is closed")
		case h != nil:
			h.Fail(fmt.Errorf("close store: %w", cerr))
		default:
			err = errors.Join(err, fmt.Errorf("close store: %w", cerr))
		}
	}()
	files, err := own.Files()
	if err != nil {
		return nil, o.Predecessor.Refuse(err)
	}
	inst, err := instance.At(files, store.FilesUUID())
	if err != nil {
		return nil, o.Predecessor.Refuse(err)
	}
	open := &descriptors{}
	d := New(own.Dir(), store, Options{
		Logger: log, Version: o.Version, Flags: o.Flags, inst: inst, files: files,
		ublk: newUblk(store, inst, log), loop: newLoop(store, inst, log), mounter: newMounter(store, open, log), open: open,
		readAt: readerOf(store),
	})
	defer func() {
		if werr := d.awaitEnds(endsTimeout); werr != nil && h != nil {
			h.Fail(werr)
		}
	}()
	return d.run(ctx, own, o)
}

// readerOf returns a function that reads volumes of a store.
func readerOf(store *objstore.Store) func(volume string, p []byte, off int64) error {
	return func(volume string, p []byte, off int64) error {
		v, err := store.OpenVolume(volume, "attach")
		if err != nil {
			return err
		}
		_, err = v.ReadAt(p, off)
		return errors.Join(err, v.Close())
	}
}

// run takes over what an earlier daemon has left or handed over, and serves. When it returns,
// devices and mounts are released.
func (d *Daemon) run(ctx context.Context, own *server.Ownership, o *RunOptions) (h *handover.Successor, err error) {
	defer func() {
		if h != nil {
			return
		}
		select {
		case late := <-d.successors:
			late.Refuse(protocol.ErrStopping)
		default:
		}
		d.Release(context.WithoutCancel(ctx), false)
	}()
	var report *protocol.Upgraded
	if p := o.Predecessor; p != nil {
		report, err = d.takeFrom(ctx, p)
		if err != nil {
			d.abandon(ctx)
			return nil, p.Refuse(err)
		}
		failpoint.Here(failpoint.UpgradeRecovered)
		if err := p.Thank(); err != nil {
			d.log.Warn("the earlier daemon does not end", "pid", p.PID(), "error", err)
		}
		failpoint.Here(failpoint.UpgradeThanked)
		own.Keep()
	} else {
		d.Takeover(ctx)
		failpoint.Here(failpoint.TakeoverDone)
	}
	defer d.swaps.watch(swapInterval)()
	defer d.checks.watch(failpoint.Limit(scrubInterval))()
	defer d.automatic.watch(automaticInterval)()
	defer d.requests.collections.end()
	if err := own.Listen(); err != nil {
		return nil, err
	}
	for {
		if h, err = d.serve(ctx, own, func() { o.Ready(report) }); h == nil || err != nil {
			return nil, err
		}
		o.Ready = func(*protocol.Upgraded) {}
		d.checks.scheduled.hold()
		d.automatic.hold()
		err := d.prepare(ctx, h)
		if err == nil {
			failpoint.Here(failpoint.UpgradeQuiet)
			err = d.letGo(ctx, h)
		}
		if err != nil {
			d.log.Error("upgrade was called off; this daemon goes on", "error", err)
			h.Refuse(err)
			d.handing.Store(false)
			d.checks.scheduled.release()
			d.automatic.release()
			continue
		}
		failpoint.Here(failpoint.UpgradeQuiesced)
		return h, nil
	}
}

// serve answers on the socket until a signal, a request to stop, or a successor that is ready.
func (d *Daemon) serve(ctx context.Context, own *server.Ownership, ready func()) (*handover.Successor, error) {
	l, err := own.Listener()
	if err != nil {
		return nil, err
	}
	srv := d.NewServer()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	look := time.NewTicker(server.CheckInterval)
	defer look.Stop()
	d.log.Info("ready", "pid", os.Getpid(), "socket", own.Path(), "version", d.version)
	ready()
	var h *handover.Successor
	for serving := true; serving; {
		serving = false
		select {
		case <-look.C:
			serving = true
			if own.Reachable() {
				continue
			}
			next, err := own.ListenAnew()
			if err != nil {
				continue // logged, and retried at the next tick
			}
			go func() { failed <- srv.Serve(next) }()
			_ = l.Close() // no client can reach it any more
			if err := <-failed; !errors.Is(err, net.ErrClosed) {
				d.log.Warn("the old socket was not closed", "error", err)
			}
			l = next
		case <-ctx.Done():
			d.log.Info("stopping: got a signal", "signal", context.Cause(ctx))
			own.Silence()
		case <-d.stop:
			d.log.Info("stopping: requested by a client")
			own.Silence()
		case h = <-d.successors:
			d.log.Info("a successor is ready", "pid", h.Hello.PID, "version", h.Hello.Version)
		case err := <-failed:
			return nil, fmt.Errorf("serve %s: %w", own.Path(), err)
		}
	}
	d.shutdown(srv)
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return h, fmt.Errorf("serve %s: %w", own.Path(), err)
	}
	return h, nil
}

func (d *Daemon) shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		d.log.Warn("requests were cut off", "error", err)
		_ = srv.Close() // the listener is closed already; this cuts the connections
	}
}
