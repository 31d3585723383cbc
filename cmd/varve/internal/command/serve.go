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
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// logName is where a daemon in the background logs to, relative to the store.
const logName = "varve.log"

const (
	takeoverFlag = "takeover"
	remountFlag  = "remount"
	remountUsage = "at a takeover, mount again what is in use: what is open below it fails"
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

// flags are the daemon's limits, where zero is the default of each, and its log.
func (o *serveOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&o.memory, "memory-limit", "soft limit of the daemon's heap, like 2G (default none, or GOMEMLIMIT)")
	f.BoolVar(&o.lockMemory, "lock-memory", true, "keep the daemon's memory from being swapped out")
	f.Var(&o.leafCache, "leaf-cache", "memory for tree leaves (default 128MiB, for 256GiB of 16KiB chunks)")
	f.Var(&o.footerCache, "footer-cache", "memory for the lists of objects in segments (default 32MiB)")
	f.Var(&o.tailSoft, "tail-soft", "what a busy volume may write before it settles (default 4GiB)")
	f.Var(&o.tailHard, "tail-hard", "what a volume may write before writes wait for settling (default twice --tail-soft)")
	f.Var(&o.reserve, "reserve", "room that writes leave on the store's disk (default a twentieth of it, 1GiB at most)")
	f.Var(&o.segment, "segment-size", "size of the files of data made from now on (default 256MiB)")
	_ = f.MarkHidden("segment-size") // for tests, which can't wait for the default; it is there
	f.IntVar(&o.records, "journal-records", 0, "`number` of writes in a journal: bounds the time to open and about 50 bytes of memory each (default 1048576)")
	f.DurationVar(&o.settleDelay, "settle-delay", 0, "age at which a quiet volume's writes settle (default 2s)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	complete(cmd, "log-level", []string{"debug", "info", "warn", "error"})
	complete(cmd, "log-format", []string{"text", "json"})
}

// limits are the flags as the store takes them.
func (o *serveOptions) limits() (objstore.Options, error) {
	s := objstore.Options{
		SegmentSize: int64(o.segment), LeafCache: int64(o.leafCache), FooterCache: int64(o.footerCache), TailSoft: int64(o.tailSoft),
		TailHard: int64(o.tailHard), Reserve: int64(o.reserve), JournalRecords: o.records, SettleDelay: o.settleDelay,
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
		Long: `serve runs the daemon of the store, in the foreground with its log on standard error, until Ctrl-C, SIGTERM or
varve stop. With --background it runs on its own, logs to varve.log in the store, and serve returns when it answers;
or fails with the reason. SIGHUP opens the log anew, SIGQUIT writes to it what runs; no other signal ends the daemon.

Devices that an earlier daemon left in use, or was killed over, are taken over: their users notice a pause. What was
attached or mounted when it was stopped, by varve stop or by a signal, is attached and mounted again, if the machine has
not been started anew since.
The limits bound what the daemon takes: its caches in memory, and each volume's tail, which is what was written and
has not settled. --memory-limit makes it give memory back more eagerly above that size.

The daemon locks its memory, so that no I/O waits for swap, and is spared when the kernel kills processes for their
memory: what waits for its devices would wait for ever. Both need root; what the machine refuses is logged.`,
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
	f.BoolVar(&o.takeover, takeoverFlag, false, "take the devices over from a daemon that runs, if one does; see varve upgrade")
	f.BoolVar(&o.remount, remountFlag, false, remountUsage)
	o.flags(cmd)
	return cmd
}

// nothingToRemount refuses --remount without --takeover where it would be for something: while a daemon runs, whose
// mounts are in the way. Otherwise what was mounted is mounted again in any case.
func (a *app) nothingToRemount(ctx context.Context) error {
	c, err := client.Dial(ctx, a.store)
	if err != nil {
		return nil //nolint:nilerr // none answers: what is wrong shows when this one starts
	}
	pid := c.Daemon().PID
	_ = c.Close() // it has said enough
	return usagef("--%s is for taking over from a daemon, and one runs, pid %d; give --%s as well", remountFlag, pid, takeoverFlag)
}

// runOptions are the options as the daemon takes them.
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

// own are the flags that say how this one process starts. All others go from a daemon to its successor.
var own = map[string]bool{backgroundFlag: true, takeoverFlag: true, remountFlag: true, "store": true, "json": true, "help": true}

// inheritable are the flags that were given, by name.
func inheritable(cmd *cobra.Command) map[string]string {
	given := map[string]string{}
	eachGiven(cmd, func(name, value string) {
		if !own[name] {
			given[name] = value
		}
	})
	return given
}

// inherit sets what the predecessor was told and this process was not.
func inherit(cmd *cobra.Command, flags map[string]string) error {
	for name, value := range flags {
		f := cmd.Flags().Lookup(name)
		if f == nil || own[name] {
			return fmt.Errorf("the daemon that runs was started with --%s=%s, which this varve does not know; "+
				"stop it with varve stop, then start this one", name, value)
		}
		if f.Changed {
			continue
		}
		if err := cmd.Flags().Set(name, value); err != nil {
			return fmt.Errorf("--%s of the daemon that runs: %w", name, err)
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
		if errors.Is(err, objstore.ErrNotStore) || errors.Is(err, objstore.ErrStoreLocked) {
			err = a.openError(err)
		}
		report(err)
	}
	return err
}

// approach finds a daemon to take over from, if that is wanted and one runs, and does as it was told.
func (a *app) approach(ctx context.Context, cmd *cobra.Command, o *serveOptions) (*daemon.Predecessor, error) {
	if !o.takeover {
		return nil, nil
	}
	if c, err := client.Dial(ctx, a.store); err == nil {
		_ = c.Close() // it answers, which is all that was asked
	} else if client.IsSilent(err) { // a daemon of another version may not be understood, and says so itself
		return nil, fmt.Errorf("take over: %w", err)
	}
	p, err := daemon.Approach(ctx, a.store, version(), o.remount)
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

// whenUnlocked calls f again for a while if the store is locked: a command that runs without a daemon has it for a
// moment.
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
			return errors.Join(err, c.Close()) // it has said enough: there is a daemon
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *app) serveInBackground(cmd *cobra.Command, takeover bool) error {
	c, err := client.Dial(cmd.Context(), a.store)
	if err == nil && takeover {
		_ = c.Close() // it is asked again
	} else if err == nil {
		pid := c.Daemon().PID
		return errors.Join(fmt.Errorf("serve %s: store is in use: a daemon runs already, pid %d", a.store, pid), c.Close())
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
		Long: `stop ends the daemon and returns when it is gone. Devices that nobody has open are detached, mounts are unmounted,
and the next daemon brings them back, so that stop and serve are a restart. What is open below a mount fails.
A ublk device that is open stays: its I/O waits for the next daemon. A loop device can't wait: stop refuses while one
is in use. --detach takes everything away for good, and I/O of the users of devices fails.`,
		Example: "  varve stop\n  varve stop --detach",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				return a.stop(cmd, c, r)
			})
		},
	}
	cmd.Flags().BoolVar(&r.Detach, "detach", false, "take all devices and mounts away, used or not, and have the next daemon bring nothing back")
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
		return fmt.Errorf("stop: the daemon, pid %d, has let go of its devices and not ended yet: %w", s.PID, err)
	}
	if a.json {
		return writeJSON(cmd.OutOrStdout(), s)
	}
	return nil
}

// stopPatience is how long a daemon may take to close its store.
const stopPatience = 2 * time.Minute

// watchProcess gives a function that returns when the process has ended.
func watchProcess(pid int) (func(context.Context) error, error) {
	p, err := os.FindProcess(pid) // a pidfd, where the kernel has them: never another process of that number
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
