package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/daemon"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
)

func (a *app) ublkListCmd() *cobra.Command {
	number := noNumber
	cmd := &cobra.Command{
		Use:     "list [-n ID]",
		Aliases: []string{"ls"},
		Short:   "List all ublk devices of this machine",
		Long: `list shows every ublk device, whichever program created it: live devices with the process that serves them, and
quiesced devices, whose I/O waits for a new server. VOLUME is known for devices of the store that --store names, TARGET
for those of varve ublk add. With -n it describes one device, in the words of other ublk programs.`,
		Example: "  varve ublk list\n  varve ublk list -n 0\n  varve ublk list --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("number") {
				return a.describeDevice(cmd, number)
			}
			list, err := blockdev.List(cmd.Context())
			if err != nil && len(list) == 0 {
				return doing("list ublk devices", err)
			}
			err = doing("list ublk devices", err) // some could not be listed
			report := ublkReport(list, a.volumesOfDevices(list))
			if a.json {
				return errors.Join(writeJSON(cmd.OutOrStdout(), report), err)
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
				{name: "target"},
				{name: "volume"},
			}, rowsOf(report))
			return err
		},
	}
	numberFlag(cmd, &number, theNumber)
	return a.jsonFlag(cmd)
}

func rowsOf(report []ublkDevice) [][]string {
	rows := make([][]string, 0, len(report))
	for _, d := range report {
		server, target := strconv.Itoa(d.ServerPID), ""
		if !d.ServerAlive {
			server = "-"
		}
		if d.Target != nil {
			target = d.Target.String() + legsNote(d.Target.Legs)
		}
		rows = append(rows, []string{
			strconv.Itoa(d.ID), d.Path, string(d.State), formatSize(d.Size), strconv.Itoa(d.Queues),
			strconv.Itoa(d.Depth), string(d.CopyMode), yesNo(d.ReadOnly), server, orNone(target), orNone(d.Volume),
		})
	}
	return rows
}

// legsNote says which legs of a mirror are not in sync.
func legsNote(legs []protocol.Leg) string {
	var list []string
	for _, l := range legs {
		if l.State != "in-sync" {
			list = append(list, fmt.Sprintf("leg %d %s", l.Leg, l.State))
		}
	}
	if list == nil {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

// describeDevice is list -n. Scripts that know other ublk programs read the words and their places.
func (a *app) describeDevice(cmd *cobra.Command, id int) error {
	what := fmt.Sprintf("list ublk device %d", id)
	d, err := blockdev.Peek(cmd.Context(), id)
	if err != nil {
		return doing(what, err)
	}
	list := []blockdev.DeviceInfo{d}
	report := ublkReport(list, a.volumesOfDevices(list))[0]
	if a.json {
		return writeJSON(cmd.OutOrStdout(), report)
	}
	queues, err := blockdev.Affinity(cmd.Context(), id)
	if err != nil {
		return doing(what, err)
	}
	writeUblkText(cmd.OutOrStdout(), &report, queues)
	return nil
}

func writeUblkText(w io.Writer, d *ublkDevice, queues [][]int) {
	fmt.Fprintf(w, "dev id %d: nr_hw_queues %d queue_depth %d block size %d dev_capacity %d\n",
		d.ID, d.Queues, d.Depth, d.BlockSize, d.Size/512)
	fmt.Fprintf(w, "\tmax rq size %d daemon pid %d flags %s state %s\n", d.MaxIO, d.ServerPID, d.Flags, stateWord(d.State))
	for i, cpus := range queues {
		text := ""
		for _, cpu := range cpus {
			text += strconv.Itoa(cpu) + " "
		}
		fmt.Fprintf(w, "\tqueue %d: affinity(%s)\n", i, text)
	}
	if d.Volume != "" {
		fmt.Fprintf(w, "\tvolume %s\n", d.Volume)
	}
	if d.Target != nil {
		fmt.Fprintf(w, "\ttarget %s\n", d.Target)
		for _, l := range d.Target.Legs {
			fmt.Fprintf(w, "\tleg %d %s %s", l.Leg, l.State, orNone(l.File))
			if l.Behind > 0 {
				fmt.Fprintf(w, ", %s behind", formatSize(l.Behind))
			}
			if l.Errors > 0 {
				fmt.Fprintf(w, ", %s", counted(int(l.Errors), "error"))
			}
			if l.Error != "" {
				fmt.Fprintf(w, ": %s", l.Error)
			}
			fmt.Fprintln(w)
		}
	}
}

// stateWord is a state as other ublk programs write it.
func stateWord(s blockdev.State) string {
	if s == blockdev.StateFailIO {
		return "FAIL_IO"
	}
	return strings.ToUpper(string(s))
}

// ublkDevice is a device in the output of `varve ublk list --json`. 64-bit numbers are strings
// there: many JSON parsers keep only 53 bits of a number.
type ublkDevice struct {
	blockdev.DeviceInfo
	Flags  string `json:"flags"`            // UBLK_F_*, hexadecimal
	Owner  string `json:"owner"`            // the mark of the program that created it, 16 hexadecimal digits
	Volume string `json:"volume,omitempty"` // of this store, if known
	// Target is what a device of varve ublk add is made of, if known.
	Target *targets.Record `json:"target,omitempty"`
}

func ublkReport(list []blockdev.DeviceInfo, volumes map[string]string) []ublkDevice {
	report := make([]ublkDevice, 0, len(list))
	for _, d := range list {
		report = append(report, ublkDevice{
			DeviceInfo: d, Flags: fmt.Sprintf("%#x", d.Flags), Owner: fmt.Sprintf("%016x", d.Owner), Volume: volumes[d.Path],
			Target: targetOf(&d),
		})
	}
	return report
}

// targetOf returns what a device of varve ublk add is made of, nil if that is not known.
func targetOf(d *blockdev.DeviceInfo) *targets.Record {
	if d.Owner != instance.Standalone {
		return nil
	}
	t, known, err := targets.Noted(d.ID)
	if err != nil || !known {
		return nil
	}
	return &t
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
