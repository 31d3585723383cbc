package command

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

func (a *app) mountCmd() *cobra.Command {
	r := protocol.Mount{}
	look := false
	cmd := &cobra.Command{
		Use:   "mount DIR",
		Short: "Mount volumes and snapshots as files",
		Long: `mount mounts the store at a directory, through FUSE:

  volumes/NAME/live              a volume, readable and writable
  snapshots/NAME/SNAP/disk.img   a snapshot, read-only and sparse
  history/NAME/STATE/disk.img    the same of a past state, {17}
  by-id/ROOT/disk.img            the same by its root
  diff/FROM..TO                  what varve snapshot diff FROM TO --json writes
  info.json next to them         size, root, users

A live file can be opened for writing only while the volume is not attached, and the volume can be attached only while
no process has the live file open for writing: the kernel caches both separately, and one would overwrite the other's
changes. --shared-live allows both at once, for programs that agree on who writes what; each side then sees the other's
writes after an fsync, or within a second.

On a read-only file system no daemon can run for the store. A separate process then serves a read-only mount until the
directory is unmounted.`,
		Example: `  varve mount /mnt/varve
  cp --sparse=always /mnt/varve/snapshots/data/monday/disk.img monday.img
  varve snapshot mount data@monday /mnt/monday`,
		Args:              args("DIR"),
		ValidArgsFunction: completeDirs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := mountPoint(args[0])
			if err != nil {
				return err
			}
			r.Dir = dir
			if look {
				return a.mountLook(cmd, r)
			}
			err = a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				return doing("mount "+dir, c.Mount(cmd.Context(), r))
			})
			if errors.Is(err, protocol.ErrNeedsDaemon) && a.onReadOnly() {
				_, err = startInBackground(append([]string{"mount", "--" + lookFlag}, append(givenFlags(cmd, lookFlag), dir)...), os.DevNull)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&look, lookFlag, false, "serve the mount of a read-only store until it is unmounted")
	_ = cmd.Flags().MarkHidden(lookFlag) // mount runs itself with it
	cmd.Flags().BoolVar(&r.AllowOther, "allow-other", false, "let all users read the mount, not only the daemon's")
	cmd.Flags().BoolVar(&r.SharedLive, "shared-live", false, "let live files be written while their volumes are attached")
	return cmd
}

// lookFlag makes mount serve the mount itself, where no daemon can run.
const lookFlag = "look"

// onReadOnly reports whether the store's file system is read-only.
func (a *app) onReadOnly() bool {
	files := vfs.OS(a.store)
	defer func() { _ = files.Close() }() // a handle only
	on, err := files.OnReadOnly()
	return err == nil && on
}

// mountLook serves the mount in this process.
func (a *app) mountLook(cmd *cobra.Command, r protocol.Mount) error {
	ready, report := readiness()
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	err := daemon.MountLook(cmd.Context(), a.store, r.Dir, r.AllowOther, log, func() { ready(nil) })
	if err != nil {
		report(err)
	}
	return err
}

func (a *app) umountCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "Unmount the files of volumes and snapshots",
		Example: "  varve umount /mnt/varve",
		Args:    args("DIR"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
			return completeDirs(cmd, args, part)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := mountPoint(args[0])
			if err != nil {
				return err
			}
			err = a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				return doing("unmount "+dir, c.Unmount(cmd.Context(), protocol.Unmount{Dir: dir}))
			})
			if errors.Is(err, protocol.ErrNeedsDaemon) && a.onReadOnly() { // the process that serves it ends then
				if err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
					err = &os.PathError{Op: "unmount", Path: dir, Err: err}
				}
			}
			return err
		},
	}
}

// mountPoint makes a path absolute, as the daemon has another working directory. Links are resolved
// as far as possible, so that mount and umount agree on the name.
func mountPoint(arg string) (string, error) {
	if arg == "" {
		return "", usagef("DIR is empty")
	}
	type result struct {
		dir string
		err error
	}
	found := make(chan result, 1)
	go func() {
		dir, err := resolve(arg)
		found <- result{dir, err}
	}()
	select {
	case r := <-found:
		return r.dir, r.err
	case <-time.After(lookLimit):
		return "", fmt.Errorf("mount point %s: no answer in %v: it is in a mount whose server hangs or is stopped", arg, lookLimit)
	}
}

// lookLimit bounds the resolution of a path, which may lead through the mount of a daemon that does
// not answer.
const lookLimit = 10 * time.Second

func resolve(arg string) (string, error) {
	dir, err := filepath.Abs(arg)
	if err != nil {
		return "", fmt.Errorf("mount point %q: %w", arg, err)
	}
	// The last element may be a dead mount, which can't be resolved.
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		dir = filepath.Join(parent, filepath.Base(dir))
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	return dir, nil
}
