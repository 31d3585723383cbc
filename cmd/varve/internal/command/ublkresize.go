package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/targets"
)

func (a *app) ublkResizeCmd() *cobra.Command {
	number, bytes := noNumber, size(0)
	cmd := &cobra.Command{
		Use:     "update_size ID|-n ID -s SIZE",
		Aliases: []string{"update-size", "resize"},
		Short:   "Change the size of a device of ublk add",
		Long: `update_size changes the size of a device that is served, also while it is in use. A loop device can be as large as its
file, a null device as large as you like; a stripe and a mirror keep theirs. The end of a device that becomes smaller is
cut off. For a volume use varve volume resize.`,
		Example:           "  varve ublk update_size -n 0 -s 20G\n  truncate -s 20G disk.img && varve ublk update_size /dev/ublkb0 --size 20G",
		ValidArgsFunction: completeDevice,
		Args:              oneDevice(&number),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := deviceOf(number, args)
			if err != nil {
				return err
			}
			if bytes <= 0 {
				return usagef("--size is missing; give the new size, like -s 20G")
			}
			what := fmt.Sprintf("resize ublk device %d", id)
			if _, err := withoutVolume(cmd.Context(), id, "varve volume resize"); err != nil {
				return doing(what, err)
			}
			d, known, err := targets.Noted(id)
			if err == nil && known {
				err = targets.MayResize(d.Target, int64(bytes))
			}
			if err != nil {
				return doing(what, err)
			}
			return doing(what, blockdev.Resize(cmd.Context(), id, int64(bytes)))
		},
	}
	numberFlag(cmd, &number, theNumber)
	cmd.Flags().VarP(&bytes, "size", "s", "the new size")
	return cmd
}

func (a *app) ublkQuiesceCmd() *cobra.Command {
	number := noNumber
	cmd := &cobra.Command{
		Use:   "quiesce ID|-n ID",
		Short: "Have a device of ublk add wait for another process",
		Long: `quiesce ends the process that serves the device. Requests under way are answered before; later ones wait for varve ublk
recover, or fail if the device was added with -r=fail-io. The device may be in use. It is how a device passes to another
version of varve; varve upgrade does that for a store's devices.`,
		Example:           "  varve ublk quiesce -n 0 && varve ublk recover -n 0",
		ValidArgsFunction: completeDevice,
		Args:              oneDevice(&number),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := deviceOf(number, args)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("quiesce ublk device %d", id)
			if _, err := withoutVolume(cmd.Context(), id, "varve upgrade"); err != nil {
				return doing(what, err)
			}
			err = blockdev.Quiesce(cmd.Context(), id)
			if errors.Is(err, blockdev.ErrUnsupported) {
				err = fmt.Errorf("%w; killing its process does the same", err)
			}
			return doing(what, err)
		},
	}
	numberFlag(cmd, &number, theNumber)
	return cmd
}
