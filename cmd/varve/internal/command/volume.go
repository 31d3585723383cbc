package command

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) volumeCmd() *cobra.Command {
	return newGroup(&cobra.Command{
		Use:     "volume",
		Aliases: []string{"vol"},
		Short:   "Create, clone, list, show, change, resize, rename, roll back, repair and delete volumes",
		Example: "  varve volume create data --size 10G",
	}, a.volumeCreateCmd(), a.volumeCloneCmd(), a.volumeListCmd(), a.volumeShowCmd(), a.volumeSetCmd(), a.volumeResizeCmd(),
		a.volumeRenameCmd(), a.volumeHistoryCmd(), a.volumeRollbackCmd(), a.volumeRepairCmd(), a.volumeDeleteCmd())
}

func (a *app) volumeCreateCmd() *cobra.Command {
	var bytes, block size = 0, 512
	verify := false
	cmd := &cobra.Command{
		Use:   "create NAME --size SIZE",
		Short: "Create a volume",
		Long: `create creates a volume of zeroes. It takes no space until it is written to, so it may be larger than the disk.

A name consists of letters, digits, '.', '_', '-', ':' and '+', begins with a letter or a digit, and has at most 128
characters. A size is written like 10G or 512MiB, in powers of 1024.

With --verify every settled chunk is verified against its hash when it is read, through devices, the mount and
snapshots: see varve volume set.`,
		Example: `  varve volume create data --size 10G
  varve volume create db --size 1.5T --block-size 4096
  varve volume create archive --size 1T --verify`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("create volume %q", args[0])
			if !cmd.Flags().Changed("size") {
				return usagef("%s: --size is missing; give one like --size 10G", what)
			}
			if block == 0 { // the protocol's default, but not a valid argument
				return usagef("%s: block size 0; use 512 or 4096", what)
			}
			r := protocol.CreateVolume{Name: args[0], Size: int64(bytes), BlockSize: int(block), Verify: verify}
			if err := r.Check(); err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				v, err := c.CreateVolume(cmd.Context(), r)
				return a.answer(cmd.OutOrStdout(), what, v, err)
			})
		},
	}
	cmd.Flags().Var(&bytes, "size", "size like 10G or 512MiB")
	cmd.Flags().Var(&block, "block-size", "logical block size of the volume's devices: 512 or 4096")
	cmd.Flags().BoolVar(&verify, "verify", false, "verify settled chunks against their hashes when they are read")
	return a.jsonFlag(cmd)
}

func (a *app) volumeListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List volumes",
		Long: `list shows the volumes. TAIL is the data written since the last settled state, DEVICE the device that the volume is
attached to. If a volume has a history, HISTORY is what only its past states have.

` + listLong,
		Example: "  varve volume list\n  varve volume list --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), a.openLook, func(c *client.Client) error {
				list, err := c.SharedVolumes(cmd.Context())
				if err != nil {
					return doing("list volumes", err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), list)
				}
				writeVolumes(cmd.OutOrStdout(), list)
				return nil
			})
		},
	}
	return a.jsonFlag(cmd)
}

// writeVolumes writes the list, with a column for history if a volume has some, and one for damage
// if a volume is damaged.
func writeVolumes(w io.Writer, list []protocol.Volume) {
	columns := []column{
		{name: "name"},
		{"size", true},
		{"logical", true},
		{"unique", true},
		{"shared", true},
		{"tail", true},
		{"snapshots", true},
		{name: "device"},
		{name: "created"},
	}
	past := slices.ContainsFunc(list, func(v protocol.Volume) bool { return v.Share != nil && v.Share.History > 0 })
	if past {
		columns = slices.Insert(columns, historyColumn, column{"history", true})
	}
	damaged := slices.ContainsFunc(list, func(v protocol.Volume) bool { return v.Damage != "" })
	if damaged {
		columns = append(columns, column{name: "damage"})
	}
	rows := make([][]string, 0, len(list))
	for _, v := range list {
		row := []string{
			v.Name, formatSize(v.Size), formatSize(v.Logical), uniqueText(v.Share), sharedText(v.Share), formatSize(v.Tail),
			strconv.Itoa(v.Snapshots), orNone(devices(v)), formatMinute(v.Created),
		}
		if past {
			row = slices.Insert(row, historyColumn, historyText(v.Share))
		}
		if damaged {
			row = append(row, orNone(v.Damage))
		}
		rows = append(rows, row)
	}
	writeTable(w, columns, rows)
}

// historyColumn is the column before which that for history goes: tail.
const historyColumn = 5

func devices(v protocol.Volume) string {
	var nodes []string
	for _, at := range v.Attached {
		nodes = append(nodes, at.Device)
	}
	return strings.Join(nodes, ", ")
}

func (a *app) volumeShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show one volume",
		Example:           "  varve volume show data",
		Args:              args("NAME"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("show volume %q", args[0])
			if err := protocol.CheckName(args[0]); err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.openLook, func(c *client.Client) error {
				v, err := c.Volume(cmd.Context(), args[0])
				if err != nil {
					return doing(what, err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), v)
				}
				writeFields(cmd.OutOrStdout(), volumeFields(v))
				return nil
			})
		},
	}
	return a.jsonFlag(cmd)
}

func volumeFields(v protocol.Volume) [][2]string {
	f := [][2]string{
		{"name", v.Name},
		{"id", v.ID},
		{"size", fmt.Sprintf("%s (%d bytes)", formatSize(v.Size), v.Size)},
		{"block size", strconv.Itoa(v.BlockSize)},
		{"verify", map[bool]string{true: "yes", false: "no"}[v.Verify]},
		{"quota", formatLimit(v.Quota)},
		{"reserve", formatLimit(v.Reserve)},
		{"policy", policyText(v.Policy)},
		{"created", formatTime(v.Created)},
		{"root", orNone(v.Root)},
		{"logical", formatSize(v.Logical)},
		{"referenced", shareText(v.Share, func() int64 { return v.Share.Referenced })},
		{"unique", uniqueText(v.Share)},
		{"shared", sharedText(v.Share)},
		{"history", historyText(v.Share)},
		{"tail", formatSize(v.Tail)},
		{"snapshots", strconv.Itoa(v.Snapshots)},
		{"users", orNone(strings.Join(v.Users, ", "))},
	}
	if v.Damage != "" {
		f = append(f, [2]string{"damage", v.Damage + "; see varve volume repair"})
	}
	for _, at := range v.Attached {
		f = append(f, [2]string{"device", attachmentText(at)})
	}
	return f
}

// attachmentText describes a device and its options on one line.
func attachmentText(at protocol.Attachment) string {
	s := at.Device
	if at.Transport == "ublk" {
		s += fmt.Sprintf(", %s copy, %s of depth %d", at.CopyMode, counted(at.Queues, "queue"), at.Depth)
	}
	if at.ReadOnly {
		s += ", read-only"
	}
	s += ", since " + formatTime(at.Since)
	if at.State == protocol.StateWaiting {
		s += ": " + waitingText(at)
	}
	return s
}

// waitingText describes why a device is not served, and when that is tried again.
func waitingText(at protocol.Attachment) string {
	s := "its I/O waits for a daemon"
	if at.Error != "" {
		s = "its I/O waits: " + at.Error
	}
	if !at.RetryAt.IsZero() {
		s += "; next try at " + formatTime(at.RetryAt)
	}
	return s
}

func (a *app) volumeDeleteCmd() *cobra.Command {
	dryRun := false
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Delete a volume",
		Long: `delete deletes a volume that is not attached. Its snapshots must be deleted first.

With --dry-run nothing is deleted, and the output says how much deleting the volume together with all of its snapshots
would free, once it is collected. It may be attached then.`,
		Example:           "  varve volume delete data\n  varve volume delete data --dry-run",
		Args:              args("NAME"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("delete volume %q", args[0])
			if err := protocol.CheckName(args[0]); err != nil {
				return usagef("%s: %w", what, err)
			}
			if dryRun {
				return a.wouldFree(cmd, fmt.Sprintf("volume %q and its snapshots", args[0]), protocol.WouldFree{Volumes: args})
			}
			if a.json {
				return usagef("%s: --json needs --dry-run: a deletion has no output", what)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				return doing(what, c.DeleteVolume(cmd.Context(), args[0]))
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what deleting the volume and its snapshots would free, and delete nothing")
	return a.jsonFlag(cmd)
}
