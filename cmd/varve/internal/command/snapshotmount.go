package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/diskfs"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// snapshotMount describes a mounted file system of a snapshot.
type snapshotMount struct {
	protocol.Attachment
	Partition int    `json:"partition,omitempty"` // 0: the file system is on the whole device
	Dir       string `json:"dir"`
	Type      string `json:"type"` // of the file system
	Writable  bool   `json:"writable"`
}

func (a *app) snapshotMountCmd() *cobra.Command {
	var r protocol.Attach
	var m snapshotMount
	cmd := &cobra.Command{
		Use:   "mount VOLUME@SNAPSHOT DIR",
		Short: "Mount the file system in a snapshot",
		Long: `mount attaches the snapshot to a device, with a temporary layer for writes, and mounts its file system at the
directory: ext4, xfs or btrfs, even while the volume itself is mounted. The layer is needed because a file system that
was in use has a journal to replay, which a read-only device does not allow; the snapshot does not change. The mount
is read-only; with --writable it accepts writes, which are discarded when it is unmounted.

If the snapshot has a partition table, --partition selects the partition to mount.

Unmount it with varve snapshot umount, which returns when the device and the layer have been removed, or with
umount(8), after which they are removed within seconds.`,
		Example: `  varve snapshot mount data@monday /mnt/monday
  varve snapshot mount vm@monday /mnt/root --partition 1
  varve snapshot umount /mnt/monday`,
		Args:              args("VOLUME@SNAPSHOT", "DIR"),
		ValidArgsFunction: a.completeSnapshotThenDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("mount snapshot %q", args[0])
			if m.Partition < 0 || cmd.Flags().Changed("partition") && m.Partition == 0 {
				return usagef("%s: partition %d; partitions are numbered from 1", what, m.Partition)
			}
			m.Writable = r.Writable
			return doing(what, a.mountSnapshot(cmd, r, m, args[0], args[1]))
		},
	}
	f := cmd.Flags()
	f.IntVar(&m.Partition, "partition", 0, "`number` of the partition to mount (default the whole device)")
	f.BoolVar(&r.Writable, "writable", false, "accept writes to the file system; they are discarded when it is unmounted")
	f.StringVar(&r.Transport, "transport", "auto", "auto, ublk, loop")
	complete(cmd, "transport", protocol.Transports)
	return a.jsonFlag(cmd)
}

// mountSnapshot attaches a snapshot and mounts its file system as m says, then reports m.
func (a *app) mountSnapshot(cmd *cobra.Command, r protocol.Attach, m snapshotMount, snapshot, dir string) (err error) {
	if r.Volume, r.Snapshot, err = protocol.SplitSnapshot(snapshot); err != nil {
		return &usageError{err}
	}
	if m.Dir, err = mountPoint(dir); err != nil {
		return err
	}
	if fi, err := os.Stat(m.Dir); err != nil {
		return err
	} else if !fi.IsDir() {
		return fmt.Errorf("%s: not a directory", m.Dir)
	}
	r.Writable = true // the device, for the journal
	if err := r.Check(); err != nil {
		return &usageError{err}
	}
	return a.do(cmd.Context(), a.openDaemon, func(c *client.Client) error {
		at, err := c.Attach(cmd.Context(), r)
		if err != nil {
			return err
		}
		writeNotes(cmd, at.Notes)
		m.Attachment = at.Attachment
		if err := m.mount(cmd.Context(), c); err != nil {
			return err
		}
		if a.json {
			return writeJSON(cmd.OutOrStdout(), m)
		}
		return nil
	})
}

// mount mounts the file system on a snapshot's device, and detaches the device if that fails.
//
// This process mounts and not the daemon, for two reasons. The directory belongs to this process's
// mount namespace. And the daemon could not be killed while its own mount(2) waits for a device
// that only another daemon can serve.
func (m *snapshotMount) mount(ctx context.Context, c *client.Client) error {
	err := m.mountDevice()
	if err == nil {
		m.MountedAt = m.Dir
		if err = c.AutoDetach(ctx, protocol.AutoDetach{Device: m.Device, Dir: m.Dir}); err != nil {
			err = errors.Join(err, unix.Unmount(m.Dir, unix.UMOUNT_NOFOLLOW))
		}
	}
	if err == nil {
		return nil
	}
	// Also after Ctrl-C.
	_, derr := c.Detach(context.WithoutCancel(ctx), protocol.Detach{Target: m.Device})
	return errors.Join(err, derr)
}

func (m *snapshotMount) mountDevice() error {
	node, err := m.node()
	if err != nil {
		return err
	}
	fsys, err := diskfs.Identify(node)
	if err != nil {
		return err
	}
	m.Type = fsys.Type
	return fsys.Mount(node, m.Dir, m.Writable)
}

// node returns the device node of the file system: the device's or its partition's.
func (m *snapshotMount) node() (string, error) {
	if m.Partition == 0 {
		return m.Device, nil
	}
	if m.Transport == "loop" {
		return "", errors.New("partitions need ublk: the kernel does not scan this loop device for them")
	}
	node := fmt.Sprintf("%sp%d", m.Device, m.Partition)
	_, err := os.Stat(node)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return node, err
	}
	all, err := filepath.Glob(m.Device + "p*")
	if err == nil && len(all) == 0 {
		return "", errors.New("the snapshot has no partitions")
	}
	numbers := make([]string, len(all))
	for i, p := range all {
		numbers[i] = strings.TrimPrefix(p, m.Device+"p")
	}
	return "", errors.Join(err, fmt.Errorf("the snapshot has no partition %d; its partitions are %s", m.Partition, strings.Join(numbers, ", ")))
}

func (a *app) snapshotUmountCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "Unmount a snapshot's file system",
		Long: `umount unmounts a file system that varve snapshot mount has mounted, and returns when the device and the layer for
writes have been removed.`,
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
	i := slices.IndexFunc(list, func(a protocol.Attachment) bool { return a.Snapshot != "" && onDevice(device, a.Device) })
	if i < 0 {
		return fmt.Errorf("%s is mounted there, which is not the device of a snapshot of this store; use umount(8)", device)
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%w: %s; close what is open below it first", protocol.ErrBusy, holders.OfMount(dir))
		}
		return err
	}
	// By the name of the layer: the daemon may detach the device at the same time, and another may get
	// its node. The answer comes when the layer is gone.
	_, err = c.Detach(ctx, protocol.Detach{Target: list[i].Volume})
	switch {
	case errors.Is(err, objstore.ErrNotFound): // the daemon has already detached it
		return nil
	case errors.Is(err, protocol.ErrBusy):
		return fmt.Errorf("unmounted, but %w", err) // it may be mounted elsewhere too
	}
	return err
}

// onDevice reports whether node is a device or one of its partitions.
func onDevice(node, device string) bool {
	if rest, ok := strings.CutPrefix(node, device); ok {
		return rest == "" || strings.HasPrefix(rest, "p")
	}
	return false
}

// mountedDevice returns the source of the topmost mount at dir.
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
