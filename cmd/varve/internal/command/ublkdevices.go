package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) ublkListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all ublk devices of this machine",
		Long: `list shows every ublk device, whichever program created it: live devices with the process that serves them, and
quiesced devices, whose I/O waits for a new server. VOLUME is known for devices of the store that --store names.`,
		Example: "  varve ublk list\n  varve ublk list --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := blockdev.List(cmd.Context())
			if err != nil && len(list) == 0 {
				return doing("list ublk devices", err)
			}
			err = doing("list ublk devices", err) // some could not be listed
			volumes := a.volumesOfDevices(list)
			if a.json {
				return errors.Join(writeJSON(cmd.OutOrStdout(), ublkReport(list, volumes)), err)
			}
			rows := make([][]string, 0, len(list))
			for _, d := range list {
				server := strconv.Itoa(d.ServerPID)
				if !d.ServerAlive {
					server = "-"
				}
				rows = append(rows, []string{
					strconv.Itoa(d.ID), d.Path, string(d.State), formatSize(d.Size), strconv.Itoa(d.Queues),
					strconv.Itoa(d.Depth), string(d.CopyMode), yesNo(d.ReadOnly), server, orNone(volumes[d.Path]),
				})
			}
			writeTable(cmd.OutOrStdout(), []column{
				{"id", true},
				{name: "device"},
				{name: "state"},
				{"size", true},
				{"queues", true},
				{"depth", true},
				{name: "copy"},
				{name: "read-only"},
				{name: "server"},
				{name: "volume"},
			}, rows)
			return err
		},
	}
	return a.jsonFlag(cmd)
}

// ublkDevice is a device in the output of `varve ublk list --json`. 64-bit numbers are strings
// there: many JSON parsers keep only 53 bits of a number.
type ublkDevice struct {
	blockdev.DeviceInfo
	Flags  string `json:"flags"`            // UBLK_F_*, hexadecimal
	Owner  string `json:"owner"`            // the mark of the program that created it, 16 hexadecimal digits
	Volume string `json:"volume,omitempty"` // of this store, if known
}

func ublkReport(list []blockdev.DeviceInfo, volumes map[string]string) []ublkDevice {
	report := make([]ublkDevice, 0, len(list))
	for _, d := range list {
		report = append(report, ublkDevice{
			DeviceInfo: d, Flags: fmt.Sprintf("%#x", d.Flags), Owner: fmt.Sprintf("%016x", d.Owner), Volume: volumes[d.Path],
		})
	}
	return report
}

// volumesOfDevices returns the volumes of devices by device node, from the store's daemon or the
// last daemon's list.
func (a *app) volumesOfDevices(list []blockdev.DeviceInfo) map[string]string {
	volumes := daemon.NotedVolumes(a.store, list)
	a.askDaemon(func(ctx context.Context, c *client.Client) []string {
		list, err := c.Attachments(ctx)
		if err != nil {
			return nil // the column stays empty
		}
		for _, at := range list {
			volumes[at.Device] = at.Volume
		}
		return nil
	})
	return volumes
}

// deviceID parses 0, ublkb0 or /dev/ublkb0.
func deviceID(arg string) (int, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(arg, "/dev/"), "ublkb")
	id, err := strconv.Atoi(text)
	if err != nil || id < 0 {
		return 0, usagef("%q is not a ublk device; give its number, like 0, or its node, like /dev/ublkb0", arg)
	}
	return id, nil
}

func (a *app) ublkDelCmd() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:     "del ID",
		Aliases: []string{"delete"},
		Short:   "Delete a ublk device",
		Long: `del deletes any ublk device of this machine, whichever program serves it. For a volume's device use varve detach
instead. It refuses while the device is open, unless --force is given.`,
		Example: "  varve ublk del 0\n  varve ublk del /dev/ublkb0 --force",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := deviceID(args[0])
			if err != nil {
				return err
			}
			err = blockdev.Delete(cmd.Context(), id, force)
			if errors.Is(err, blockdev.ErrBusy) {
				err = fmt.Errorf("%w: %s; unmount or close it first, or use --force",
					protocol.ErrBusy, holders.OfDevice(fmt.Sprintf("/dev/ublkb%d", id)))
			}
			return doing(fmt.Sprintf("delete ublk device %d", id), err)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete a device that is in use: I/O of its users fails")
	return cmd
}
