package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// RunOptions of a daemon. The zero value is the default.
type RunOptions struct {
	Logger  *slog.Logger
	Version string
	// Process says how the process is made fit to serve; Unlocked is the daemon's own to set.
	Process ProcessOptions
	// Store are the limits of the open store.
	Store objstore.Options
	// Ready is called once, when the socket answers.
	Ready func()
}

// shutdownTimeout bounds the wait for answers that are under way when the daemon ends.
const shutdownTimeout = 5 * time.Second

// Run serves the store at dir, an absolute path, until ctx ends or a client asks for the end. Devices that are open
// then wait for the next daemon.
func Run(ctx context.Context, dir string, o RunOptions) (err error) {
	log := o.Logger
	store, err := OpenStore(ctx, dir, log, o.Store)
	if err != nil {
		return err
	}
	st, err := store.Stat()
	if err != nil {
		return errors.Join(err, store.Close())
	}
	o.Process.Unlocked = filepath.Join(dir, objstore.IndexDir)
	defer PrepareProcess(log, o.Process)()
	log.Info("store is open", "store", dir, "uuid", st.UUID, "volumes", st.Volumes, "snapshots", st.Snapshots,
		"seconds", st.OpenTime, "read_only", st.ReadOnly)
	defer func() {
		if cerr := store.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("close store: %w", cerr))
			return
		}
		log.Info("store is closed")
	}()
	d := New(dir, store, Options{
		Logger: log, Version: o.Version,
		ublk: newUblk(store, st.UUID, log), loop: newLoop(store, st.UUID, log), mounter: newMounter(store, log),
	})
	defer d.watchers.Wait()
	return d.serve(ctx, o.Ready)
}

// serve answers on the socket; when it returns, devices and mounts are released.
func (d *Daemon) serve(ctx context.Context, ready func()) error {
	defer func() {
		stopping := context.WithoutCancel(ctx)
		d.Release(stopping, false)
	}()
	d.Takeover(ctx)
	l, err := Listen(d.dir)
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, protocol.SocketName)
	defer func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("socket is left over", "error", err)
		}
	}()
	srv := d.NewServer()
	srv.ErrorLog = slog.NewLogLogger(d.log.Handler(), slog.LevelWarn)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	d.log.Info("ready", "pid", os.Getpid(), "socket", path, "version", d.version)
	if ready != nil {
		ready()
	}
	select {
	case <-ctx.Done():
		d.log.Info("stopping: got a signal")
	case <-d.stop:
		d.log.Info("stopping: was asked to")
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", path, err)
	}
	d.shutdown(srv)
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", path, err)
	}
	return nil
}

func (d *Daemon) shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		d.log.Warn("requests were cut off", "error", err)
		_ = srv.Close() // the listener is closed already; this cuts the connections
	}
}
