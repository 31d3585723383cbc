package command

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) statCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "Show the store's statistics",
		Long: `stat shows the store's content and size: LOGICAL is the data that is not zero in the settled states of all volumes,
STORED the unique data in the store's files, TAIL the data that was written and has not settled yet, USED the size of
the store's files on disk, FREE the space available for writes, of which settling may need a part.

DEDUP RATIO is LOGICAL divided by STORED. STORED includes the data of snapshots, and overwritten, discarded or deleted
data that was not collected yet: if there is more of that than deduplication saves, the ratio is below 1.

SPACE is ok; low, if the space for writes is below a tenth of the total (16GiB at most); or full, if it is below 4MiB:
writes then wait for settling or fail with "no space left on device", and everything else continues. The daemon logs
each change.

The table of uses says what each byte of the store's files is for; the sum is USED. DATA and TREE are what volumes and
snapshots refer to, each object once; HISTORY is what only past states of volumes refer to, or '-' if that is too much
to be counted in two seconds, and part of DATA and TREE; DEAD is what nothing refers to any more, and what is not
collected yet.

COLLECTION is about the space of such data (varve gc): how far the collection is that runs, when the last one ended and
what it freed, and its rate (varve set --gc-rate).

SCRUB is about checks of the whole store: whether one runs or was interrupted, when the last one ended and what it
found, and the schedule (varve set --scrub-every).

SWAP lists swap areas of this machine on devices of the store: when memory runs out, the machine may hang for good.`,
		Example: "  varve stat\n  varve stat --json | jq .dedup_ratio",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), a.openLook, func(c *client.Client) error {
				s, err := c.Stat(cmd.Context())
				if err != nil {
					return doing("stat", err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), s)
				}
				writeStat(cmd.OutOrStdout(), s)
				return nil
			})
		},
	}
	return a.jsonFlag(cmd)
}

func formatMaxSize(n int64) string {
	if n == 0 {
		return "none"
	}
	return formatSize(n)
}

// snapshotDevice describes where a snapshot is attached and mounted.
func snapshotDevice(at protocol.Attachment) string {
	text := at.Snapshot + " on " + at.Device
	if at.MountedAt != "" {
		text += ", mounted at " + at.MountedAt
	}
	return text
}

// swapText describes a swap area on one of the store's devices.
func swapText(w protocol.Swap) string {
	on := w.Device
	if w.Volume != "" {
		on += ", volume " + w.Volume
	}
	return fmt.Sprintf("DANGER: %s, with %s in use, is on %s: the machine may hang for good when memory runs out",
		w.Area, formatSize(w.Used), on)
}

// dedupText explains a ratio below 1: it counts data that no volume has any more.
func dedupText(s *objstore.Stat) string {
	switch {
	case s.Stored == 0:
		return "-"
	case s.Stored <= s.Logical:
		return fmt.Sprintf("%.2f", s.DedupRatio)
	}
	return fmt.Sprintf("%.2f; at least %s of the stored data is only in snapshots, overwritten or deleted",
		s.DedupRatio, formatSize(s.Stored-s.Logical))
}

// scrubText says what is known of checks of the whole store.
func scrubText(s *objstore.ScrubInfo) string {
	var parts []string
	switch s.State {
	case objstore.ScrubRunning:
		parts = append(parts, fmt.Sprintf("running since %s, %s of %s", formatTime(s.Begun), formatSize(s.Done), formatSize(s.Total)))
	case objstore.ScrubIdle:
	case objstore.ScrubInterrupted:
		parts = append(parts, fmt.Sprintf("interrupted, begun %s, %s done", formatTime(s.Begun), formatSize(s.Done)))
	}
	if !s.LastEnded.IsZero() {
		found := "no damage"
		if s.LastDamaged > 0 {
			found = "DAMAGE FOUND in " + counted(s.LastDamaged, "place")
		}
		parts = append(parts, fmt.Sprintf("last %s, %s, %s", formatTime(s.LastEnded), formatSize(s.LastBytes), found))
	}
	if s.Every > 0 {
		every := "every " + formatDuration(time.Duration(s.Every)*time.Second)
		if s.Rate > 0 {
			every += " at " + formatRate(s.Rate)
		}
		if !s.Due.IsZero() {
			every += ", due " + formatTime(s.Due)
		}
		parts = append(parts, every)
	}
	return strings.Join(parts, "; ")
}

func writeStat(w io.Writer, s protocol.Stat) {
	served := "none"
	if s.Daemon != nil {
		served = fmt.Sprintf("pid %d, version %s, since %s", s.Daemon.PID, s.Daemon.Version, formatTime(s.Daemon.Started))
	}
	fields := [][2]string{
		{"store", s.Path},
		{"uuid", s.UUID},
		{"daemon", served},
		{"volumes", strconv.Itoa(s.Volumes)},
		{"snapshots", strconv.Itoa(s.Snapshots)},
		{"chunk size", formatSize(int64(s.ChunkSize))},
		{"logical", formatSize(s.Logical)},
		{"stored", formatSize(s.Stored)},
		{"dedup ratio", dedupText(&s.Stat)},
		{"tail", formatSize(s.Tail)},
		{"metadata", formatSize(s.Metadata)},
		{"used", formatSize(s.Used) + " in " + counted(s.Segments, "segment")},
		{"maximum", formatMaxSize(s.MaxSize)},
		{"free", fmt.Sprintf("%s, of which settling may need %s, and %s in reserve", formatSize(s.Free), formatSize(s.SettleReservation), formatSize(s.Reserve))},
		{"space", fmt.Sprintf("%s (low below %s, full below %s)", s.State, formatSize(s.LowAt), formatSize(s.FullAt))},
		{"opened in", fmt.Sprintf("%.3f s", s.OpenTime)},
	}
	if i := s.Reindex; i != nil {
		fields = append(fields, [2]string{"reindex", fmt.Sprintf("running since %s, %d of %s", formatTime(i.Begun), i.Done, counted(i.Segments, "segment"))})
	}
	fields = append(fields, [2]string{"collection", collectText(&s.Collect)})
	if text := scrubText(&s.Scrub); text != "" {
		fields = append(fields, [2]string{"scrub", text})
	}
	if s.Unindexed > 0 {
		fields = append(fields, [2]string{"index", fmt.Sprintf("being filled, %d of %s to do; look-ups are slow until then", s.Unindexed, counted(s.Segments, "segment"))})
	}
	if f := s.OpenFiles; f != nil {
		fields = append(fields, [2]string{"open files", fmt.Sprintf("%d of %d", f.Open, f.Limit)})
	}
	if s.ReadOnly != "" {
		fields = append(fields, [2]string{"read-only", s.ReadOnly})
	}
	if s.DiskError != "" {
		fields = append(fields, [2]string{"disk", "used, free and space are unknown: " + s.DiskError})
	}
	for _, v := range s.PerVolume {
		if v.Damage != "" {
			fields = append(fields, [2]string{"damaged", "volume " + v.Name + ": " + v.Damage})
		}
	}
	fields = append(fields, machineFields(&s)...)
	writeFields(w, fields)
	writeUses(w, &s.Stat)
	if len(s.PerVolume) == 0 {
		return
	}
	devices := map[string]string{}
	for _, at := range s.Attached {
		devices[at.Volume] = at.Device
	}
	rows := make([][]string, 0, len(s.PerVolume))
	for _, v := range s.PerVolume {
		rows = append(rows, []string{
			v.Name, formatSize(v.Size), formatSize(v.Logical), formatSize(v.Tail),
			strconv.Itoa(v.Snapshots), orNone(devices[v.Name]),
		})
	}
	fmt.Fprintln(w)
	writeTable(w, []column{
		{name: "volume"}, {"size", true}, {"logical", true}, {"tail", true}, {"snapshots", true}, {name: "device"},
	}, rows)
}

// writeUses writes what the bytes of the store's files are for.
func writeUses(w io.Writer, s *objstore.Stat) {
	u := s.Uses
	if u == nil {
		return
	}
	about := ""
	if u.Estimated {
		about = "~"
	}
	history := int64(-1)
	if u.History != nil {
		history = *u.History
	}
	var rows [][]string
	for _, use := range []struct {
		name, about string
		bytes       int64
		what        string
	}{
		{"data", about, u.Data, "chunks of volumes and snapshots"},
		{"tree", "", u.Tree, "their tree nodes"},
		{"history", about, history, "only past states have it"},
		{"tail", "", u.Tail, "written and not settled, overwritten data too"},
		{"dead", about, u.Dead, "not referred to any more, and not collected yet"},
		{"lists", "", u.Lists, "object lists of the segments"},
		{"journals", "", u.Journals, "what the tail is recorded in"},
		{"refs", "", u.Refs, "names of volumes and snapshots"},
		{"index", "", u.Index, "can be made again"},
		{"other", "", u.Other, "superblocks, ballast, the daemon's files"},
	} {
		size, part := "-", "-"
		if use.bytes >= 0 {
			size = use.about + formatSize(use.bytes)
		}
		if use.bytes >= 0 && s.Used > 0 {
			part = fmt.Sprintf("%.1f %%", 100*float64(use.bytes)/float64(s.Used))
		}
		rows = append(rows, []string{use.name, size, part, use.what})
	}
	fmt.Fprintln(w)
	writeTable(w, []column{{name: "use"}, {"size", true}, {"part", true}, {name: "what"}}, rows)
}

// machineFields returns the fields about devices, swap areas and mounts of this machine.
func machineFields(s *protocol.Stat) [][2]string {
	var fields [][2]string
	for _, at := range s.Attached {
		if at.State == protocol.StateWaiting {
			fields = append(fields, [2]string{"waiting", fmt.Sprintf("%s, volume %s: %s", at.Device, at.Volume, waitingText(at))})
		}
	}
	for _, t := range s.Targets {
		if t.State == protocol.StateWaiting {
			at := protocol.Attachment{Error: t.Error, RetryAt: t.RetryAt}
			fields = append(fields, [2]string{"waiting", fmt.Sprintf("%s, %s: %s", t.Device, &t.Target, waitingText(at))})
			continue
		}
		fields = append(fields, [2]string{"target", fmt.Sprintf("%s, %s%s", t.Device, &t.Target, legsNote(t.Legs))})
	}
	for _, at := range s.Attached {
		if at.Snapshot != "" {
			fields = append(fields, [2]string{"snapshot", snapshotDevice(at)})
		}
	}
	for _, at := range s.Foreign {
		fields = append(fields, [2]string{"left alone", fmt.Sprintf("%s, volume %s: %s", at.Device, at.Volume, at.Error)})
	}
	for _, w := range s.Swap {
		fields = append(fields, [2]string{"swap", swapText(w)})
	}
	for _, m := range s.Mounts {
		fields = append(fields, [2]string{"mount", m.Dir})
	}
	return fields
}
