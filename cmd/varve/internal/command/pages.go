package command

import (
	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/daemon"
)

// dropPagesCmd is a command that the daemon runs.
func (a *app) dropPagesCmd() *cobra.Command {
	return &cobra.Command{
		Use:     daemon.DropPagesCommand,
		Short:   "Write back and drop the kernel's cached pages of the devices named on standard input",
		Example: "  echo /dev/ublkb0 | varve " + daemon.DropPagesCommand,
		Hidden:  true,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.DropPages(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
