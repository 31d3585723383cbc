package command

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/targets"
)

func (a *app) ublkAddLegCmd() *cobra.Command {
	number, format := noNumber, false
	cmd := &cobra.Command{
		Use:     "add-leg ID FILE | -n ID FILE",
		Aliases: []string{"re-add"},
		Short:   "Bring a leg of a mirror back",
		Long: `add-leg gives a mirror that is served a leg in the place of one that is out. A leg that was out comes back with what it
holds, and gets what was written since; the device is used meanwhile, and varve ublk list shows how far the copy is.
With --format the file is one that was no leg, or was used without the others: it gets everything, and what it held is
lost.`,
		Example: "  varve ublk add-leg 0 b.img\n  varve ublk add-leg -n 0 new.img --format",
		Args: func(cmd *cobra.Command, args []string) error {
			switch given := cmd.Flags().Changed("number"); {
			case given && len(args) == 0, !given && len(args) < 2:
				return usagef("ID or FILE is missing")
			case given && len(args) > 1, len(args) > 2:
				return usagef("unexpected argument %q", args[len(args)-1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := deviceOf(number, args[:len(args)-1])
			if err != nil {
				return err
			}
			path, err := filepath.Abs(args[len(args)-1])
			if err != nil {
				return fmt.Errorf("file %q: %w", args[len(args)-1], err)
			}
			what := "add a leg to ublk device " + strconv.Itoa(id)
			if _, err := withoutVolume(cmd.Context(), id, "varve ublk add -t mirror"); err != nil {
				return doing(what, err)
			}
			return doing(what, targets.AddLeg(cmd.Context(), id, path, format))
		},
	}
	numberFlag(cmd, &number, theNumber)
	cmd.Flags().BoolVar(&format, "format", false, "the file was no leg, or is to be one from the start: what it holds is lost")
	return cmd
}
