package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/holders"
	"varve/cmd/varve/internal/instance"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/targets"
)

func (a *app) ublkDelCmd() *cobra.Command {
	number, all, safe, force := noNumber, false, false, false
	cmd := &cobra.Command{
		Use:     "del ID|-n ID|-a",
		Aliases: []string{"delete"},
		Short:   "Delete a ublk device",
		Long: `del deletes any ublk device of this machine, whichever program serves it. For a volume's device use varve detach
instead. It refuses while the device is open, unless --force is given; --safe, which other programs have for that,
changes nothing. -a deletes all devices of varve ublk add.`,
		Example:           "  varve ublk del -n 0\n  varve ublk del /dev/ublkb0 --force\n  varve ublk del -a",
		ValidArgsFunction: completeDevice,
		Args: func(cmd *cobra.Command, args []string) error {
			if !all {
				return oneDevice(&number)(cmd, args)
			}
			if len(args) > 0 || cmd.Flags().Changed("number") {
				return usagef("--all and a device; name one device, or delete all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if safe && force {
				return usagef("both --safe and --force")
			}
			if all {
				return deleteAll(cmd.Context(), force)
			}
			id, err := deviceOf(number, args)
			if err != nil {
				return err
			}
			return deleteDevice(cmd.Context(), id, force)
		},
	}
	f := cmd.Flags()
	numberFlag(cmd, &number, theNumber)
	f.BoolVarP(&all, "all", "a", false, "delete all devices of varve ublk add")
	f.BoolVar(&safe, "safe", false, "delete the device only if it is not open: the default")
	f.BoolVar(&force, "force", false, "delete a device that is in use: I/O of its users fails")
	return cmd
}

func deleteDevice(ctx context.Context, id int, force bool) error {
	err := blockdev.Delete(ctx, id, force)
	if errors.Is(err, blockdev.ErrBusy) {
		err = fmt.Errorf("%w: %s; unmount or close it first, or use --force",
			protocol.ErrBusy, holders.OfDevice(fmt.Sprintf("/dev/ublkb%d", id)))
	}
	if err == nil {
		err = targets.Forget(id)
	}
	return doing(fmt.Sprintf("delete ublk device %d", id), err)
}

// deleteAll deletes the devices that belong to no volume. One that can't be deleted does not keep the
// others.
func deleteAll(ctx context.Context, force bool) error {
	list, err := blockdev.List(ctx)
	errs := []error{doing("list ublk devices", err)}
	for _, d := range list {
		if d.Owner == instance.Standalone {
			errs = append(errs, deleteDevice(ctx, d.ID, force))
		}
	}
	return errors.Join(errs...)
}
