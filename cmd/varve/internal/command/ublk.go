package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/cmd/varve/internal/instance"
)

func (a *app) ublkCmd() *cobra.Command {
	return newGroup(&cobra.Command{
		Use:   "ublk",
		Short: "Manage ublk devices: null, loop, stripe, mirror, nbd and qcow2 targets, and all devices of this machine",
		Long: `ublk manages devices without a volume: the targets null, loop, stripe, mirror, nbd and qcow2. list shows all ublk
devices of this machine, whichever program serves them; del deletes one.

The flags -t, -n, -q, -d, -z, -u, -r, -f and -s are those of the ublk programs of ublksrv and of the kernel's selftests.`,
		Example: "  varve ublk add -t null --size 10G\n  varve ublk list\n  varve ublk del -n 0",
	}, a.ublkAddCmd(), a.ublkListCmd(), a.ublkDelCmd(), a.ublkRecoverCmd(), a.ublkQuiesceCmd(), a.ublkResizeCmd(), a.ublkAddLegCmd(), a.featuresCmd())
}

// noNumber is the value of a flag --number that was not given.
const noNumber = -1

// numberFlag adds the flag -n.
func numberFlag(cmd *cobra.Command, n *int, usage string) {
	cmd.Flags().IntVarP(n, "number", "n", noNumber, usage)
	cmd.Flags().Lookup("number").DefValue = "0" // noNumber is not to be shown
	if err := cmd.RegisterFlagCompletionFunc("number", completeDevice); err != nil {
		panic(err) // no such flag: a bug
	}
}

// theNumber is the usage of -n for a device that is there.
const theNumber = "the device's `number`: the N of /dev/ublkbN"

// oneDevice is args for a device that is named by an argument or by -n.
func oneDevice(n *int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed("number")
		switch {
		case len(args) > 1:
			return usagef("unexpected argument %q", args[1])
		case len(args) == 1 && given:
			return usagef("both -n %d and %q; name one device", *n, args[0])
		case len(args) == 0 && !given:
			return usagef("ID is missing")
		case given && *n < 0:
			return usagef("device number %d; use 0 or more", *n)
		}
		return nil
	}
}

// deviceOf returns the device of a command with oneDevice.
func deviceOf(n int, args []string) (int, error) {
	if len(args) == 1 {
		return deviceID(args[0])
	}
	return n, nil
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

// completeDevice completes the numbers of the machine's devices.
func completeDevice(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	list, err := blockdev.List(ctx)
	if err != nil {
		return nil, none
	}
	numbers := make([]string, 0, len(list))
	for _, d := range list {
		numbers = append(numbers, fmt.Sprintf("%d\t%s, %s", d.ID, formatSize(d.Size), d.State))
	}
	return numbers, none
}

// withoutVolume describes a device, and refuses one that may belong to a volume, for which instead
// says what to do.
func withoutVolume(ctx context.Context, id int, instead string) (blockdev.DeviceInfo, error) {
	i, err := blockdev.Peek(ctx, id)
	if err == nil && i.Owner != instance.Standalone {
		err = fmt.Errorf("it was not created by varve ublk add; for the device of a volume use %s", instead)
	}
	return i, err
}
