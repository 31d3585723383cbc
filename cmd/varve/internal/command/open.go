package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// lockPatience is how long a command waits for a store that is locked while no daemon answers: a
// daemon may be starting, or another command may be using the store.
var lockPatience = 10 * time.Second

// lockPoll is how often it retries.
const lockPoll = 100 * time.Millisecond

// open returns a client of the daemon, or of the store itself if no daemon runs.
func (a *app) open(ctx context.Context) (*client.Client, error) {
	return a.openAs(ctx, objstore.Options{})
}

// openLook is open for commands that only read: without a daemon they change nothing in the store,
// and work on one that is read-only.
func (a *app) openLook(ctx context.Context) (*client.Client, error) {
	return a.openAs(ctx, objstore.Options{LookOnly: true})
}

func (a *app) openAs(ctx context.Context, o objstore.Options) (*client.Client, error) {
	deadline := time.Now().Add(lockPatience)
	for {
		c, err := client.Dial(ctx, a.store)
		if !errors.Is(err, client.ErrNoDaemon) {
			return c, err
		}
		c, err = a.openHere(ctx, o)
		if !errors.Is(err, objstore.ErrStoreLocked) || time.Now().After(deadline) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// openHere opens the store in this process.
func (a *app) openHere(ctx context.Context, o objstore.Options) (*client.Client, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := daemon.OpenStore(ctx, a.store, log, o)
	if err != nil {
		return nil, a.openError(err)
	}
	d := daemon.Local(ctx, a.store, store, version())
	return client.Local(d.Handler(), store.Close), nil
}

// openDaemon returns a client of the daemon, for commands that need one.
func (a *app) openDaemon(ctx context.Context) (*client.Client, error) {
	for deadline := time.Now().Add(lockPatience); ; {
		c, err := client.Dial(ctx, a.store)
		if !errors.Is(err, client.ErrNoDaemon) {
			return c, err
		}
		if err := a.isStore(); err != nil {
			return nil, err
		}
		pid, held := objstore.Holder(a.store)
		switch {
		case !held:
			return nil, fmt.Errorf("%w (store %s)", protocol.ErrNeedsDaemon, a.store)
		case time.Now().After(deadline):
			return nil, a.openError(fmt.Errorf("store %s: %w%s", a.store, objstore.ErrStoreLocked, pidText(pid)))
		}
		// The holder may be a daemon that is starting or whose socket was removed, or another
		// command.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

func pidText(pid int) string {
	if pid == 0 {
		return ""
	}
	return fmt.Sprintf(", pid %d", pid)
}

// isStore returns an error if a.store is not a store.
func (a *app) isStore() error {
	_, err := os.Stat(filepath.Join(a.store, "superblock"))
	if errors.Is(err, fs.ErrNotExist) {
		return a.openError(objstore.ErrNotStore)
	}
	return err
}

// openError adds what to do about a store that did not open.
func (a *app) openError(err error) error {
	switch {
	case errors.Is(err, objstore.ErrNotStore):
		return fmt.Errorf("%s: %w; create one with `varve init`, or name another with --store", a.store, objstore.ErrNotStore)
	case errors.Is(err, objstore.ErrStoreLocked) && !client.IsSilent(err):
		return fmt.Errorf("%w, and no daemon answers on its socket", err)
	}
	return err
}

// do opens a client, calls f and closes it.
func (a *app) do(ctx context.Context, open func(context.Context) (*client.Client, error), f func(*client.Client) error) error {
	c, err := open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}
