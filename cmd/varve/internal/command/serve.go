package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/handover"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// logName is the log of a daemon in the background, relative to the store.
const logName = "varve.log"

const (
	takeoverFlag = "takeover"
	remountFlag  = "remount"
	remountUsage = "at a takeover, also remount mounts that are in use: files open in them fail"
)

type serveOptions struct {
	background bool
	takeover   bool
	remount    bool
	logLevel   string
	logFormat  string

	memory      size
	lockMemory  bool
	leafCache   size
	footerCache size
	tailSoft    size
	tailHard    size
	reserve     size
	segment     size
	records     int
	settleDelay time.Duration
}

// flags adds the flags of the daemon's limits, whose zero values are the defaults, and of its log.
func (o *serveOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&o.memory, "memory-limit", "soft limit of the daemon's heap, like 2G (default none, or GOMEMLIMIT)")
	f.BoolVar(&o.lockMemory, "lock-memory", true, "keep the daemon's memory from being swapped out")
	f.Var(&o.leafCache, "leaf-cache", "memory for tree leaves (default 128MiB, for 256GiB of 16KiB chunks)")
	f.Var(&o.footerCache, "footer-cache", "memory for the lists of objects in segments (default 32MiB)")
	f.Var(&o.tailSoft, "tail-soft", "tail at which a busy volume starts to settle (default 4GiB)")
	f.Var(&o.tailHard, "tail-hard", "tail at which a volume's writes wait for settling (default twice --tail-soft)")
	f.Var(&o.reserve, "reserve", "space on the store's disk that writes leave free (default a twentieth of it, 1GiB at most)")
	f.Var(&o.segment, "segment-size", "size of new segment files (default 256MiB)")
	_ = f.MarkHidden("segment-size") // for tests, for which the default is too large
	f.IntVar(&o.records, "journal-records", 0, "`number` of writes in a journal: bounds the time to open, and memory at about 50 bytes each (default 1048576)")
	f.DurationVar(&o.settleDelay, "settle-delay", 0, "age at which a quiet volume's writes settle (default 2s)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	complete(cmd, "log-level", []string{"debug", "info", "warn", "error"})
	complete(cmd, "log-format", []string{"text", "json"})
}

// collectNice is by how much the nice value of the daemon's thread that collects is above the
// daemon's own.
const collectNice = 10

// limits returns the store's options that the flags set.
func (o *serveOptions) limits() (objstore.Options, error) {
	s := objstore.Options{
		SegmentSize: int64(o.segment), LeafCache: int64(o.leafCache), FooterCache: int64(o.footerCache), TailSoft: int64(o.tailSoft),
		TailHard: int64(o.tailHard), Reserve: int64(o.reserve), JournalRecords: o.records, SettleDelay: o.settleDelay,
		CollectNice: collectNice,
	}
	check := s
	check.EnsureDefaults()
	if err := check.Validate(); err != nil {
		return s, &usageError{err}
	}
	return s, nil
}

func (a *app) serveCmd() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the store's daemon",
		Long: `serve runs the store's daemon in the foreground, with its log on standard error, until Ctrl-C, SIGTERM or
varve stop. With --background the daemon runs in the background and logs to varve.log in the store; serve returns when
the daemon answers, or fails with the reason. SIGHUP reopens the log, SIGQUIT writes all goroutines' stacks to it; no
other signal ends the daemon.

The daemon takes over devices that an earlier daemon left in use or died with: their users notice a pause. Volumes that
were attached and mounts that were mounted when the last daemon was stopped, by varve stop or by a signal, are attached
and mounted again, unless the machine has been rebooted since.

The limits bound the daemon's caches in memory, and each volume's tail: the data that was written and has not settled.
Above --memory-limit the daemon returns memory to the system more eagerly.

The daemon locks its memory, so that no I/O waits for swap, and is exempt from the kernel's out-of-memory killer:
processes that wait for its devices would wait forever. Both need root; if the machine refuses one, the log says so.`,
		Example: `  varve serve --background
  varve serve --store /srv/varve --memory-limit 2G --log-level debug`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.runOptions(cmd); err != nil {
				return err
			}
			if o.remount && !o.takeover {
				if err := a.nothingToRemount(cmd.Context()); err != nil {
					return err
				}
			}
			if o.background {
				return a.serveInBackground(cmd, o.takeover)
			}
			return a.serve(cmd, &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.background, backgroundFlag, false, "return when the daemon answers, and leave it running")
	f.BoolVar(&o.takeover, takeoverFlag, false, "take the devices over from the running daemon, if there is one; see varve upgrade")
	f.BoolVar(&o.remount, remountFlag, false, remountUsage)
	o.flags(cmd)
	return cmd
}

// nothingToRemount refuses --remount without --takeover while a daemon runs. Without a daemon the
// flag has no effect, as mounts are restored in any case.
func (a *app) nothingToRemount(ctx context.Context) error {
	c, err := client.Dial(ctx, a.store)
	if err != nil {
		return nil //nolint:nilerr // no daemon answers; starting one reports any other problem
	}
	pid := c.Daemon().PID
	_ = c.Close()
	return usagef("--%s is for taking over from a daemon, and one runs, pid %d; give --%s as well", remountFlag, pid, takeoverFlag)
}

// runOptions returns the options of the daemon.
func (o *serveOptions) runOptions(cmd *cobra.Command) (daemon.RunOptions, error) {
	log, err := newLogger(cmd.ErrOrStderr(), o.logLevel, o.logFormat)
	if err != nil {
		return daemon.RunOptions{}, err
	}
	limits, err := o.limits()
	return daemon.RunOptions{
		Logger: log, Version: version(), Store: limits, Flags: inheritable(cmd),
		Process: daemon.ProcessOptions{MemoryLimit: int64(o.memory), Swappable: !o.lockMemory},
	}, err
}

// own are the flags that concern only this process. A daemon hands all others to its successor.
var own = map[string]bool{backgroundFlag: true, takeoverFlag: true, remountFlag: true, "store": true, "json": true, "help": true}

// inheritable returns the values, by name, of the given flags that a successor inherits.
func inheritable(cmd *cobra.Command) map[string]string {
	given := map[string]string{}
	eachGiven(cmd, func(name, value string) {
		if !own[name] {
			given[name] = value
		}
	})
	return given
}

// inherit sets the flags that were given to the predecessor and not to this process.
func inherit(cmd *cobra.Command, flags map[string]string) error {
	for name, value := range flags {
		f := cmd.Flags().Lookup(name)
		if f == nil || own[name] {
			return fmt.Errorf("the running daemon was started with --%s=%s, which this version of varve does not know; "+
				"stop it with varve stop, then start this one", name, value)
		}
		if f.Changed {
			continue
		}
		if err := cmd.Flags().Set(name, value); err != nil {
			return fmt.Errorf("--%s of the running daemon: %w", name, err)
		}
	}
	return nil
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("log level %q; use debug, info, warn or error", level)
	}
	o.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, usagef("log format %q; use text or json", format)
}

// serve runs the daemon, in this process.
func (a *app) serve(cmd *cobra.Command, o *serveOptions) error {
	log, err := newLogger(cmd.ErrOrStderr(), o.logLevel, o.logFormat)
	if err != nil {
		return err
	}
	ctx, end := daemonSignals(cmd.Context(), log, standardError().reopen, cmd.ErrOrStderr())
	defer end()
	ready, report := readiness()
	err = a.run(ctx, cmd, o, ready)
	if err != nil {
		err = a.serveError(ctx, err)
		report(err)
	}
	return err
}

// approach asks a running daemon to hand over, if --takeover was given and there is one, and
// inherits its flags.
func (a *app) approach(ctx context.Context, cmd *cobra.Command, o *serveOptions) (*handover.Predecessor, error) {
	if !o.takeover {
		return nil, nil
	}
	if c, err := client.Dial(ctx, a.store); err == nil {
		_ = c.Close() // the daemon answers, which is enough
	} else if client.IsSilent(err) { // other errors may be another version's, which Approach handles
		return nil, fmt.Errorf("take over: %w", err)
	}
	p, err := handover.Approach(ctx, a.store, version(), o.remount)
	if errors.Is(err, client.ErrNoDaemon) {
		return nil, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = client.Silent(a.store, err)
	}
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if err := inherit(cmd, p.Flags()); err != nil {
		p.Close()
		return nil, fmt.Errorf("take over: %w", err)
	}
	return p, nil
}

func (a *app) run(ctx context.Context, cmd *cobra.Command, o *serveOptions, ready func(*protocol.Upgraded)) error {
	p, err := a.approach(ctx, cmd, o)
	if err != nil {
		return err
	}
	r, err := o.runOptions(cmd)
	if err != nil {
		if p != nil {
			p.Close()
		}
		return err
	}
	r.Predecessor, r.Ready = p, ready
	return a.whenUnlocked(ctx, func() error { return daemon.Run(ctx, a.store, r) })
}

// whenUnlocked retries f for a while if the store is locked: a command that runs without a daemon
// locks the store for a moment.
func (a *app) whenUnlocked(ctx context.Context, f func() error) error {
	for deadline := time.Now().Add(lockPatience); ; {
		err := f()
		if !errors.Is(err, objstore.ErrStoreLocked) || time.Now().After(deadline) {
			return err
		}
		if c, derr := client.Dial(ctx, a.store); !errors.Is(derr, client.ErrNoDaemon) {
			if derr != nil {
				return fmt.Errorf("%w: %w", err, derr)
			}
			return errors.Join(err, c.Close()) // a daemon runs
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serveError adds what to do about a store that could not be served.
func (a *app) serveError(ctx context.Context, err error) error {
	if errors.Is(err, objstore.ErrStoreLocked) {
		if c, derr := client.Dial(ctx, a.store); derr == nil {
			return a.alreadyServed(c)
		}
	}
	return a.openError(err)
}

// alreadyServed returns the error for a store that a daemon serves, and closes the client of the
// daemon.
func (a *app) alreadyServed(c *client.Client) error {
	return errors.Join(fmt.Errorf("serve %s: store is in use: a daemon is already running, pid %d", a.store, c.Daemon().PID), c.Close())
}

func (a *app) serveInBackground(cmd *cobra.Command, takeover bool) error {
	c, err := client.Dial(cmd.Context(), a.store)
	if err == nil && takeover {
		_ = c.Close() // the process in the background connects by itself
	} else if err == nil {
		return a.alreadyServed(c)
	}
	if err := a.isStore(); err != nil {
		return err
	}
	path := filepath.Join(a.store, logName)
	_, err = startInBackground(withoutBackground(cmd), path)
	if errors.Is(err, errNoReason) {
		return fmt.Errorf("%w; its log is %s", err, path)
	}
	return err
}

func (a *app) stopCmd() *cobra.Command {
	var r protocol.Stop
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop the store's daemon",
		Long: `stop ends the daemon and returns when its process has ended. Devices that are not open are detached, and mounts are
unmounted; the next daemon restores them, so stop and serve together are a restart. Files open in a mount fail.
A ublk device that is open remains: its I/O waits for the next daemon. A loop device cannot wait: stop refuses while one
is in use. --detach removes all devices and mounts for good, and I/O of the devices' users fails.`,
		Example: "  varve stop\n  varve stop --detach",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				return a.stop(cmd, c, r)
			})
		},
	}
	cmd.Flags().BoolVar(&r.Detach, "detach", false, "remove all devices and mounts, in use or not; the next daemon restores none of them")
	return a.jsonFlag(cmd)
}

func (a *app) stop(cmd *cobra.Command, c *client.Client, r protocol.Stop) error {
	wait, err := watchProcess(c.Daemon().PID)
	if err != nil {
		return fmt.Errorf("stop: watch the daemon's process: %w", err)
	}
	s, err := c.Stop(cmd.Context(), r)
	if err != nil {
		return doing("stop", err)
	}
	writeNotes(cmd, s.Notes)
	if err := wait(cmd.Context()); err != nil {
		return fmt.Errorf("stop: the daemon, pid %d, has released its devices but has not ended yet: %w", s.PID, err)
	}
	if a.json {
		return writeJSON(cmd.OutOrStdout(), s)
	}
	return nil
}

// stopPatience is how long a daemon may take to close its store.
const stopPatience = 2 * time.Minute

// watchProcess returns a function that waits until the process has ended.
func watchProcess(pid int) (func(context.Context) error, error) {
	p, err := os.FindProcess(pid) // a pidfd where the kernel has them: never another process with the same number
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, stopPatience)
		defer cancel()
		for {
			if err := p.Signal(syscall.Signal(0)); errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}, nil
}
