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
		Long: `set changes settings that are kept in the store. It works with or without a daemon.

--max-size limits the size of the store's files on disk; "none" leaves it to the file system. Writes are refused before
the limit is reached: a twentieth of it, at least 32MiB, is reserved for settling, deleting and opening, as varve stat
shows. A limit below the current size stops writes and nothing else; when it is raised, they continue at once.

The other flags tell varve what a store is that was copied, restored or moved to another disk. Without them the store
does not touch the devices of the store that it was copied from, and refuses volumes whose journals were copied while
they were in use.

--new-uuid: the store is a copy. It gets its own UUID, and forgets the original's devices.
--copied-from stopped: no daemon served the store while its files were copied; the daemon may have been killed before.
The refused volumes have everything that was written.
--copied-from snapshot: the files were copied from a snapshot of the underlying disk. They have everything that was
flushed.
--moved: like --copied-from stopped, and the store from which the files were copied no longer exists, or this is the
same disk, mounted elsewhere: the devices that wait for a daemon belong to this store. No daemon may be running.`,
		Example: "  varve set --max-size 200G\n  varve set --max-size none\n  varve --store /srv/restored set --new-uuid --copied-from snapshot",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, w := cmd.Context(), cmd.OutOrStdout()
			identity := id != protocol.Identity{}
			switch {
			case identity && maxSize != "":
				return usagef("--max-size cannot be combined with other flags; set one after the other")
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
	f.StringVar(&maxSize, "max-size", "", "limit of the store's size on disk: a `size` like 200G, or none")
	f.BoolVar(&id.NewUUID, "new-uuid", false, "the store is a copy: give it its own UUID")
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
		fmt.Fprintf(w, "%s (volume %s) will be taken over by the next daemon\n", d.Device, d.Volume)
	}
	return nil
}
