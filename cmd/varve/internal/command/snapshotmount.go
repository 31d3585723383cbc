package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/diskfs"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// snapshotMount is a snapshot whose file system is mounted.
type snapshotMount struct {
	protocol.Attachment
	Dir      string `json:"dir"`
	Type     string `json:"type"` // of the file system
	Writable bool   `json:"writable"`
}

func (a *app) snapshotMountCmd() *cobra.Command {
	var r protocol.Attach
	cmd := &cobra.Command{
		Use:   "mount VOLUME@SNAPSHOT DIR",
		Short: "Mount the file system in a snapshot",
		Long: `mount puts the snapshot on a device, under a layer that takes what is written and is thrown away, and mounts its file
system at the directory: ext4, xfs or btrfs, also while the volume itself is mounted. The layer is there because a file
system that was caught in use has a journal to replay, for which a read-only device will not do; the snapshot stays as
it is. The mount is read-only; with --writable it can be written to, and what is written is gone when it is unmounted.

umount(8) or varve snapshot umount ends it: the device and the layer go soon after, or at once.`,
		Example: `  varve snapshot mount data@monday /mnt/monday
  varve snapshot umount /mnt/monday`,
		Args:              args("VOLUME@SNAPSHOT", "DIR"),
		ValidArgsFunction: a.completeSnapshotThenDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			return doing(fmt.Sprintf("mount snapshot %q", args[0]), a.mountSnapshot(cmd, r, args[0], args[1]))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.Writable, "writable", false, "let the file system be written to; what is written is thrown away")
	f.StringVar(&r.Transport, "transport", "auto", "auto, ublk, loop")
	complete(cmd, "transport", protocol.Transports)
	return a.jsonFlag(cmd)
}

// mountSnapshot is the command of that name.
func (a *app) mountSnapshot(cmd *cobra.Command, r protocol.Attach, snapshot, dir string) (err error) {
	if r.Volume, r.Snapshot, err = protocol.SplitSnapshot(snapshot); err != nil {
		return &usageError{err}
	}
	if dir, err = mountPoint(dir); err != nil {
		return err
	}
	if fi, err := os.Stat(dir); err != nil {
		return err
	} else if !fi.IsDir() {
		return fmt.Errorf("%s: not a directory", dir)
	}
	writable := r.Writable
	r.Writable = true // the device, for the journal
	if err := r.Check(); err != nil {
		return &usageError{err}
	}
	return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
		at, err := c.Attach(cmd.Context(), r)
		if err != nil {
			return err
		}
		for _, n := range at.Notes {
			fmt.Fprintf(cmd.ErrOrStderr(), "varve: note: %s\n", n)
		}
		m, err := mountSnapshot(cmd.Context(), c, at.Attachment, dir, writable)
		if err == nil && a.json {
			err = writeJSON(cmd.OutOrStdout(), m)
		}
		return err
	})
}

// mountSnapshot mounts what is on a snapshot's device, which goes if that fails.
//
// It is this process that mounts, for two reasons. The directory is one of its mount namespace. And the daemon could not
// be killed while its own mount(2) waits for a device that only another daemon can serve.
func mountSnapshot(ctx context.Context, c *client.Client, at protocol.Attachment, dir string, writable bool) (snapshotMount, error) {
	m := snapshotMount{Attachment: at, Dir: dir, Writable: writable}
	fsys, err := diskfs.Identify(at.Device)
	if err == nil {
		m.Type = fsys.Type
		err = fsys.Mount(at.Device, dir, writable)
	}
	if err == nil {
		m.MountedAt = dir
		if err = c.AutoDetach(ctx, protocol.AutoDetach{Device: at.Device, Dir: dir}); err != nil {
			err = errors.Join(err, unix.Unmount(dir, unix.UMOUNT_NOFOLLOW))
		}
	}
	if err == nil {
		return m, nil
	}
	// Also after Ctrl-C.
	_, derr := c.Detach(context.WithoutCancel(ctx), protocol.Detach{Target: at.Device})
	return m, errors.Join(err, derr)
}

func (a *app) snapshotUmountCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "Unmount a snapshot's file system",
		Long: `umount unmounts what varve snapshot mount has mounted, and returns when the device and the layer that took what was
written are gone.`,
		Example:           "  varve snapshot umount /mnt/monday",
		Args:              args("DIR"),
		ValidArgsFunction: completeDirs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := mountPoint(args[0])
			if err != nil {
				return err
			}
			return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
				return doing("unmount "+dir, umountSnapshot(cmd.Context(), c, dir))
			})
		},
	}
}

func umountSnapshot(ctx context.Context, c *client.Client, dir string) error {
	device, err := mountedDevice(dir)
	if err != nil {
		return err
	}
	list, err := c.Attachments(ctx)
	if err != nil {
		return err
	}
	ours := slices.ContainsFunc(list, func(a protocol.Attachment) bool { return a.Device == device && a.Snapshot != "" })
	if !ours {
		return fmt.Errorf("%s is mounted there, which is the device of no snapshot of this store; use umount(8)", device)
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%w: %s; close what is open below it first", protocol.ErrBusy, holders.OfMount(dir))
		}
		return err
	}
	_, err = c.Detach(ctx, protocol.Detach{Target: device})
	switch {
	case errors.Is(err, objstore.ErrNotFound): // the daemon has seen to it already
		return nil
	case errors.Is(err, protocol.ErrBusy):
		return fmt.Errorf("unmounted, but %w", err) // it may be mounted somewhere else too
	}
	return err
}

// mountedDevice is the source of the uppermost mount at dir.
func mountedDevice(dir string) (string, error) {
	list, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err == nil && len(list) == 0 {
		err = errors.New("nothing is mounted there")
	}
	if err != nil {
		return "", err
	}
	return list[len(list)-1].Source, nil
}
