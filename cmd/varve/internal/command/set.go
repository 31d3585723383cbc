package command

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) setCmd() *cobra.Command {
	var maxSize string
	var id protocol.Identity
	cmd := &cobra.Command{
		Use:   "set --max-size SIZE | --new-uuid | --copied-from WHAT | --moved",
		Short: "Change a store's settings",
		Long: `set changes what is kept in the store, with or without a daemon.

--max-size bounds what the store's files take on disk; "none" leaves it to the file system. Writes are refused some
way before that: a twentieth of it, 32MiB at least, is kept for settling, deleting and opening, as varve stat shows.
A maximum below what is used stops writes and nothing else; raised, they go on at once.

The others say what a store is that was copied, restored or moved to another disk. It never takes the devices of the
store that it was copied from, and refuses volumes whose journals were copied while they were in use.

--new-uuid: it is a copy, and stays one. It gets a UUID of its own, and lets go of the original's devices.
--copied-from stopped: no daemon served the store while its files were copied; it may have been killed before. The
volumes that are refused have all that was written.
--copied-from snapshot: the files were copied from a snapshot of the disk below. They have all that was flushed.
--moved: as --copied-from stopped, and the store from which the files were copied is gone, or it is the same disk,
mounted anew: the devices that wait for their daemon are this store's. It works while no daemon runs.`,
		Example: "  varve set --max-size 200G\n  varve set --max-size none\n  varve --store /srv/restored set --new-uuid --copied-from snapshot",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, w := cmd.Context(), cmd.OutOrStdout()
			identity := id != protocol.Identity{}
			switch {
			case identity && maxSize != "":
				return usagef("--max-size goes with nothing else; set one after the other")
			case !identity && maxSize == "":
				return usagef("--max-size is missing; give one like --max-size 200G, or none, or say what the store is: " +
					"--new-uuid, --copied-from, --moved")
			}
			if identity {
				if err := id.Check(); err != nil {
					return &usageError{err}
				}
				return a.do(ctx, a.open, func(c *client.Client) error { return a.setIdentity(ctx, w, c, id) })
			}
			r, err := parseMaxSize(maxSize)
			if err != nil {
				return err
			}
			return a.do(ctx, a.open, func(c *client.Client) error { return a.setMaxSize(ctx, w, c, r) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&maxSize, "max-size", "", "what the store may take on disk: a `size` like 200G, or none")
	f.BoolVar(&id.NewUUID, "new-uuid", false, "the store is a copy: give it a UUID of its own")
	f.StringVar(&id.CopiedFrom, "copied-from", "", "`what` its files were copied from: "+strings.Join(protocol.CopiedFroms, ", "))
	f.BoolVar(&id.Moved, "moved", false, "the store was moved: the devices in its list are its own")
	complete(cmd, "copied-from", protocol.CopiedFroms)
	return a.jsonFlag(cmd)
}

func parseMaxSize(s string) (r protocol.MaxSize, err error) {
	if s != "none" {
		if r.Bytes, err = parseSize(s); err != nil {
			return r, usagef("--max-size: %w", err)
		}
		if r.Bytes == 0 {
			return r, usagef("--max-size 0; write none for no maximum")
		}
	}
	if err := r.Check(); err != nil {
		return r, &usageError{err}
	}
	return r, nil
}

func (a *app) setMaxSize(ctx context.Context, w io.Writer, c *client.Client, r protocol.MaxSize) error {
	s, err := c.SetMaxSize(ctx, r)
	if err != nil {
		return doing("set --max-size", err)
	}
	if a.json {
		return writeJSON(w, s)
	}
	return nil
}

func (a *app) setIdentity(ctx context.Context, w io.Writer, c *client.Client, r protocol.Identity) error {
	ans, err := c.SetIdentity(ctx, r)
	if err != nil {
		return doing("set", err)
	}
	if a.json {
		return writeJSON(w, ans)
	}
	if r.NewUUID {
		fmt.Fprintln(w, ans.UUID)
	}
	for _, v := range ans.Volumes {
		fmt.Fprintf(w, "volume %s is in service\n", v)
	}
	for _, d := range ans.Devices {
		fmt.Fprintf(w, "%s (volume %s) is taken by the next daemon\n", d.Device, d.Volume)
	}
	return nil
}
