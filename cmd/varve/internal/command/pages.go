package command

import (
	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/daemon"
)

// dropPagesCmd is for the daemon to run.
func (a *app) dropPagesCmd() *cobra.Command {
	return &cobra.Command{
		Use:     daemon.DropPagesCommand,
		Short:   "Have the kernel write and forget the pages of the devices that standard input names",
		Example: "  echo /dev/ublkb0 | varve " + daemon.DropPagesCommand,
		Hidden:  true,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.DropPages(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
