package command

import (
	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/daemon"
)

// dropPagesCmd is for the daemon to run.
func (a *app) dropPagesCmd() *cobra.Command {
	return &cobra.Command{
		Use:     daemon.DropPagesCommand + " DEVICE",
		Short:   "Have the kernel write and forget the pages that it keeps of a device",
		Example: "  varve " + daemon.DropPagesCommand + " /dev/ublkb0",
		Hidden:  true,
		Args:    args("DEVICE"),
		RunE: func(_ *cobra.Command, args []string) error {
			return daemon.DropPages(args[0])
		},
	}
}
