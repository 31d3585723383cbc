package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) upgradeCmd() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace the store's daemon with this version of varve while devices are in use",
		Long: `upgrade starts a daemon of this version in the background, which takes over every device from the running daemon.
File systems stay mounted, and I/O waits during the pause that upgrade prints. It returns when the old daemon has ended.
If the new daemon cannot serve the store and all devices, the old one continues, and upgrade fails with the reason.

The new daemon inherits the limits and the log level of the old one unless flags change them, and logs to varve.log in
the store. FUSE mounts are unmounted and mounted again. Files open in them cannot be handed over, so upgrade refuses a
mount that is in use before it changes anything; with --remount the open files fail instead. It also refuses a loop
device: detach it first. Requests of other commands wait meanwhile; a long snapshot create --wait is interrupted after
its snapshot was created.

If a supervisor runs the daemon, make it start varve serve --takeover, which does the same in the foreground, and starts
like varve serve if no daemon runs.`,
		Example: `  varve upgrade
  /opt/varve-next/varve upgrade --memory-limit 4G --json`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.runOptions(cmd); err != nil {
				return err
			}
			return a.upgrade(cmd)
		},
	}
	cmd.Flags().BoolVar(&o.remount, remountFlag, false, remountUsage)
	o.flags(cmd)
	return a.jsonFlag(cmd)
}

func (a *app) upgrade(cmd *cobra.Command) error {
	c, err := client.DialSocket(cmd.Context(), a.store)
	switch {
	case errors.Is(err, client.ErrNoDaemon):
		if err := a.isStore(); err != nil {
			return err
		}
		return fmt.Errorf("upgrade: %w (store %s)", protocol.ErrNeedsDaemon, a.store)
	case err != nil:
		return fmt.Errorf("upgrade: %w", err)
	}
	_ = c.Close() // the new daemon connects by itself
	path := filepath.Join(a.store, logName)
	said, err := startInBackground(append([]string{"serve", "--" + takeoverFlag}, givenFlags(cmd, "json")...), path)
	if errors.Is(err, errNoReason) {
		return fmt.Errorf("upgrade: %w; its log is %s", err, path)
	}
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	var u protocol.Upgraded
	if said == "" {
		return fmt.Errorf("upgrade: the old daemon ended before it could hand over; a new one serves the store")
	}
	if err := json.Unmarshal([]byte(said), &u); err != nil {
		return fmt.Errorf("upgrade: read the new daemon's report: %w", err)
	}
	if err := a.afterUpgrade(cmd, &u); err != nil {
		return err
	}
	if a.json {
		return writeJSON(cmd.OutOrStdout(), u)
	}
	printUpgrade(cmd, &u)
	return nil
}

// afterUpgrade waits until the old daemon has ended.
func (a *app) afterUpgrade(cmd *cobra.Command, u *protocol.Upgraded) error {
	wait, err := watchProcess(u.From.PID)
	if err != nil {
		return fmt.Errorf("upgrade: watch the old daemon's process: %w", err)
	}
	if err := wait(cmd.Context()); err != nil {
		return fmt.Errorf("upgrade: the new daemon serves; the old one, pid %d, has not ended: %w", u.From.PID, err)
	}
	return nil
}

func printUpgrade(cmd *cobra.Command, u *protocol.Upgraded) {
	out := cmd.OutOrStdout()
	writeNotes(cmd, u.Notes)
	fmt.Fprintf(out, "upgraded: pid %d (%s) -> pid %d (%s)\n", u.From.PID, u.From.Version, u.To.PID, u.To.Version)
	if len(u.Devices) > 0 {
		rows := make([][]string, 0, len(u.Devices))
		for _, d := range u.Devices {
			rows = append(rows, []string{d.Device, d.Volume, formatPause(d.Pause)})
		}
		writeTable(out, []column{{name: "device"}, {name: "volume"}, {name: "pause", right: true}}, rows)
	}
	if len(u.Targets) > 0 {
		rows := make([][]string, 0, len(u.Targets))
		for _, t := range u.Targets {
			rows = append(rows, []string{t.Device, t.Target, formatPause(t.Pause)})
		}
		writeTable(out, []column{{name: "device"}, {name: "target"}, {name: "pause", right: true}}, rows)
	}
	if p := u.Pause; p != nil {
		fmt.Fprintf(out, "I/O waited: p50 %s, max %s\n", formatPause(p.P50), formatPause(p.Max))
	}
	for _, m := range u.Mounts {
		fmt.Fprintf(out, "mounted again: %s\n", m)
	}
}

func formatPause(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond).String()
}
