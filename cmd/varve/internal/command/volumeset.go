package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) volumeSetCmd() *cobra.Command {
	var changes volumeChanges
	cmd := &cobra.Command{
		Use:   "set NAME [--verify[=false]] [--quota SIZE] [--reserve SIZE] [--keep-last N] [...]",
		Short: "Change a volume's properties",
		Long: `set changes a volume, attached or not. The change takes effect at once, for its devices, the mount and its
snapshots.

With --verify, every settled chunk is read as a whole, hashed, and compared with the hash in the volume's tree, before
any of it is returned. If they differ, the read fails with an I/O error, and the daemon's log names the volume, the
sectors, the file and the offset. Data that was written recently and has not settled has no hash yet. Verified reads
are copied through the daemon and are slower.

--quota limits the volume's data, counted in whole chunks and before deduplication; data that only its snapshots have
does not count. A write that would exceed the quota fails with "no space left on device"; other volumes are not
affected. Existing data can be overwritten and discarded, and discarding makes room. A quota below the volume's present
data is set, with a note. --reserve sets aside space that other volumes cannot use. Both take a size, or none to remove
the limit.

--keep-last N keeps the newest N past states of the volume. --keep-hourly, --keep-daily and --keep-weekly keep the
newest state of each of the last N hours, days and weeks (UTC) that have one. Setting any of them starts the volume's
history (varve volume history). The same rules apply, separately, to automatic snapshots; snapshots that were created
by hand are never deleted. --snapshot-every makes the daemon take a snapshot at that interval, unless nothing was
written since the last one. Kept states take space for the data that only they have.

A stricter policy takes effect with the next state or automatic snapshot, or at once with varve snapshot prune; prune
--dry-run shows what would go. 0 removes a rule; --snapshot-every none ends automatic snapshots.`,
		Example: `  varve volume set data --verify
  varve volume set data --quota 100G --reserve 20G
  varve volume set data --quota none
  varve volume set data --keep-last 10 --keep-hourly 24 --keep-daily 7
  varve volume set data --snapshot-every 15m`,
		Args:              args("NAME"),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("set volume %q", args[0])
			if err := protocol.CheckName(args[0]); err != nil {
				return usagef("%s: %w", what, err)
			}
			r, err := changes.request(cmd)
			if err == nil {
				err = r.Check()
			}
			if err != nil {
				return usagef("%s: %w", what, err)
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				v, err := c.SetVolume(cmd.Context(), args[0], r)
				writeNotes(cmd, v.Notes)
				return a.answer(cmd.OutOrStdout(), what, v, err)
			})
		},
	}
	changes.flags(cmd)
	return a.jsonFlag(cmd)
}

// volumeChanges are the flags of volume set.
type volumeChanges struct {
	verify         bool
	quota, reserve string

	keepLast, keepHourly, keepDaily, keepWeekly int
	snapshotEvery                               string
}

func (c *volumeChanges) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&c.verify, "verify", false, "verify settled chunks against their hashes when they are read")
	f.StringVar(&c.quota, "quota", "", "limit of the volume's data: a `size` like 100G, or none")
	f.StringVar(&c.reserve, "reserve", "", "space that other volumes cannot use: a `size` like 20G, or none")
	f.IntVar(&c.keepLast, "keep-last", 0, "keep the newest `N` past states")
	f.IntVar(&c.keepHourly, "keep-hourly", 0, "keep the newest past state of each of the last `N` hours that have one")
	f.IntVar(&c.keepDaily, "keep-daily", 0, "the same for the last `N` days")
	f.IntVar(&c.keepWeekly, "keep-weekly", 0, "the same for the last `N` weeks")
	f.StringVar(&c.snapshotEvery, "snapshot-every", "", "take a snapshot at this interval: a `time` like 15m, 6h or 1d, or none")
	complete(cmd, "snapshot-every", []string{"none"})
	complete(cmd, "quota", []string{"none"})
	complete(cmd, "reserve", []string{"none"})
}

// request returns what the flags that were given ask for.
func (c *volumeChanges) request(cmd *cobra.Command) (r protocol.SetVolume, err error) {
	f := cmd.Flags()
	if f.NFlag() == 0 || f.NFlag() == 1 && f.Changed("json") {
		return r, fmt.Errorf("nothing to change; give --verify, --verify=false, --quota, --reserve, --keep-... or --snapshot-every")
	}
	if r.RetentionChange, err = c.retention(cmd); err != nil {
		return r, err
	}
	if f.Changed("verify") {
		r.Verify = &c.verify
	}
	if f.Changed("quota") {
		if r.Quota, err = parseLimit("quota", c.quota); err != nil {
			return r, err
		}
	}
	if f.Changed("reserve") {
		r.Reserve, err = parseLimit("reserve", c.reserve)
	}
	return r, err
}

// parseLimit reads a size, or none.
func parseLimit(flag, s string) (*int64, error) {
	if s == "none" {
		return new(int64), nil
	}
	n, err := parseSize(s)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: %w", flag, s, err)
	}
	if n == 0 {
		return nil, fmt.Errorf("--%s 0; write none for none", flag)
	}
	return &n, nil
}

// formatLimit is formatSize for a limit that may be none.
func formatLimit(n int64) string {
	if n == 0 {
		return "none"
	}
	return formatSize(n)
}

// retention returns what the flags that were given change of the policy.
func (c *volumeChanges) retention(cmd *cobra.Command) (r protocol.RetentionChange, err error) {
	f := cmd.Flags()
	for _, k := range []struct {
		flag  string
		value *int
		to    **int
	}{
		{"keep-last", &c.keepLast, &r.KeepLast},
		{"keep-hourly", &c.keepHourly, &r.KeepHourly},
		{"keep-daily", &c.keepDaily, &r.KeepDaily},
		{"keep-weekly", &c.keepWeekly, &r.KeepWeekly},
	} {
		if f.Changed(k.flag) {
			*k.to = k.value
		}
	}
	if f.Changed("snapshot-every") {
		var every time.Duration
		if c.snapshotEvery != "none" {
			if every, err = parseDuration(c.snapshotEvery); err != nil {
				return r, fmt.Errorf("--snapshot-every: %w", err)
			}
		}
		seconds := int64(every / time.Second)
		r.SnapshotEvery = &seconds
	}
	return r, nil
}

// policyText says what is kept of a volume's past in the words of the flags that set it.
func policyText(p *objstore.Retention) string {
	if p == nil {
		return "none"
	}
	var parts []string
	for _, k := range []struct {
		name string
		n    int
	}{{"last", p.KeepLast}, {"hourly", p.KeepHourly}, {"daily", p.KeepDaily}, {"weekly", p.KeepWeekly}} {
		if k.n > 0 {
			parts = append(parts, fmt.Sprintf("keep-%s %d", k.name, k.n))
		}
	}
	if p.SnapshotEvery > 0 {
		parts = append(parts, "snapshot-every "+formatDuration(time.Duration(p.SnapshotEvery)*time.Second))
	}
	return strings.Join(parts, ", ")
}
