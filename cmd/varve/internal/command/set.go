package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) setCmd() *cobra.Command {
	var maxSize string
	var id protocol.Identity
	var m maintenanceFlags
	cmd := &cobra.Command{
		Use:   "set --max-size SIZE | --scrub-every TIME | --scrub-rate BYTES/s | --gc-rate BYTES/s | --new-uuid | --copied-from WHAT | --moved",
		Short: "Change a store's settings",
		Long: `set changes settings that are kept in the store. It works with or without a daemon.

--max-size limits the size of the store's files on disk; "none" leaves it to the file system. Writes are refused
before the limit is reached: a twentieth of it, at least 32MiB, is reserved for settling, deleting and opening, as
varve stat shows. A limit below the current size stops writes and nothing else; when it is raised, they continue at
once.

--scrub-every makes the daemon check the whole store at that interval (varve check), at low priority: the check yields
to requests. An interrupted check continues where it stopped, if necessary in the next daemon. varve stat and the log
show what it found. --scrub-rate limits how much it reads per second.

--gc-rate limits how much collection (varve gc) reads, writes and frees per second while there is room: when space is
short, it goes as fast as it can. The default is 64MiB/s.

The other flags say how a store came here that was copied, restored or moved to another disk. Without them, varve
leaves the devices of the original store alone, and refuses volumes whose journals were copied while they were in use.

--new-uuid: the store is a copy. It gets its own UUID, and forgets the original's devices.
--copied-from stopped: no daemon served the store while its files were copied, though one may have been killed before.
The refused volumes have everything that was written.
--copied-from snapshot: the files were copied from a snapshot of the underlying disk. The refused volumes have
everything that was flushed.
--moved: like --copied-from stopped; in addition the original store no longer exists, or this is the same disk,
mounted elsewhere, so the devices that wait for a daemon belong to this store. No daemon may be running.`,
		Example: `  varve set --max-size 200G
  varve set --max-size none
  varve set --scrub-every 30d --scrub-rate 50M
  varve set --gc-rate 200M
  varve --store /srv/restored set --new-uuid --copied-from snapshot`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			do, err := a.setting(cmd, maxSize, id, &m)
			if err != nil {
				return err
			}
			return a.do(cmd.Context(), a.open, do)
		},
	}
	f := cmd.Flags()
	f.StringVar(&maxSize, "max-size", "", "limit of the store's size on disk: a `size` like 200G, or none")
	f.BoolVar(&id.NewUUID, "new-uuid", false, "the store is a copy: give it its own UUID")
	f.StringVar(&id.CopiedFrom, "copied-from", "", "`what` its files were copied from: "+strings.Join(protocol.CopiedFroms, ", "))
	f.BoolVar(&id.Moved, "moved", false, "the store was moved: the devices in its list are its own")
	m.add(cmd)
	complete(cmd, "copied-from", protocol.CopiedFroms)
	return a.jsonFlag(cmd)
}

// setting returns what the flags of varve set ask for. They are of three kinds, one of which is set
// at a time.
func (a *app) setting(cmd *cobra.Command, maxSize string, id protocol.Identity, m *maintenanceFlags) (func(*client.Client) error, error) {
	ctx, w := cmd.Context(), cmd.OutOrStdout()
	change, err := m.request(cmd)
	if err != nil {
		return nil, err
	}
	identity, upkeep, size := id != protocol.Identity{}, change != protocol.Maintenance{}, maxSize != ""
	switch {
	case identity && (size || upkeep) || size && upkeep:
		return nil, usagef("--max-size, the schedule and rates (--scrub-every, --scrub-rate, --gc-rate), and what the store is, are set one after the other")
	case identity:
		if err := id.Check(); err != nil {
			return nil, &usageError{err}
		}
		return func(c *client.Client) error { return a.setIdentity(ctx, w, c, id) }, nil
	case upkeep:
		if err := change.Check(); err != nil {
			return nil, &usageError{err}
		}
		return func(c *client.Client) error { return a.setMaintenance(ctx, w, c, change) }, nil
	case !size:
		return nil, usagef("nothing to set; give --max-size, --gc-rate, or --scrub-every and --scrub-rate, " +
			"or say what the store is: --new-uuid, --copied-from, --moved")
	}
	r, err := parseMaxSize(maxSize)
	if err != nil {
		return nil, err
	}
	return func(c *client.Client) error { return a.setMaxSize(ctx, w, c, r) }, nil
}

// maintenanceFlags are the flags of the store's maintenance, as they were given.
type maintenanceFlags struct{ scrubEvery, scrubRate, gcRate string }

func (m *maintenanceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&m.scrubEvery, "scrub-every", "", "check the whole store this often: a `time` like 30d or 12h, or none")
	f.StringVar(&m.scrubRate, "scrub-rate", "", "these checks read at most this many `bytes` per second, like 50M, or none for no limit")
	f.StringVar(&m.gcRate, "gc-rate", "", "collection reads, writes and frees at most this many `bytes` per second, like 200M, none, or default")
	complete(cmd, "scrub-every", []string{"none", "1d", "1w", "30d"})
	complete(cmd, "scrub-rate", []string{"none"})
	complete(cmd, "gc-rate", []string{"default", "none"})
}

// request returns what the flags ask for.
func (m *maintenanceFlags) request(cmd *cobra.Command) (r protocol.Maintenance, err error) {
	if cmd.Flags().Changed("scrub-every") {
		every := time.Duration(0)
		if m.scrubEvery != "none" {
			if every, err = parseDuration(m.scrubEvery); err != nil {
				return r, usagef("--scrub-every: %w", err)
			}
			if every == 0 {
				return r, usagef("--scrub-every %s; write none for no schedule", m.scrubEvery)
			}
		}
		r.ScrubEvery = new(int64(every / time.Second))
	}
	if cmd.Flags().Changed("scrub-rate") {
		rate, err := parseRate(m.scrubRate)
		if err != nil {
			return r, usagef("--scrub-rate: %w", err)
		}
		r.ScrubRate = &rate
	}
	if cmd.Flags().Changed("gc-rate") {
		rate, err := parseCollectRate(m.gcRate)
		if err != nil {
			return r, usagef("--gc-rate: %w", err)
		}
		r.CollectRate = &rate
	}
	return r, nil
}

// parseCollectRate returns a rate as objstore.Maintenance has it.
func parseCollectRate(s string) (int64, error) {
	if s == "default" {
		return 0, nil
	}
	rate, err := parseRate(s)
	if err == nil && rate == 0 {
		rate = objstore.NoCollectLimit
	}
	return rate, err
}

func (a *app) setMaintenance(ctx context.Context, w io.Writer, c *client.Client, r protocol.Maintenance) error {
	s, err := c.SetMaintenance(ctx, r)
	return a.answer(w, "set", s, err)
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
	return a.answer(w, "set --max-size", s, err)
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
