package command

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"varve/blockdev"
	"varve/uring"
)

// featureReport is the output of `varve features --json`.
type featureReport struct {
	Kernel   string              `json:"kernel"`
	Ublk     bool                `json:"ublk"`             // present, and usable by this user
	Reason   string              `json:"reason,omitempty"` // why not
	Bugs     []blockdev.KnownBug `json:"bugs"`             // of this kernel's driver, as far as they are known
	Features []blockdev.Feature  `json:"features"`
}

func (a *app) featuresCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "features",
		Short: "Show which ublk features this kernel supports",
		Long: `features lists the features of ublk, whether this kernel supports each, and what varve does without it, and warns of
kernels whose driver is known to be broken. If the kernel has no ublk, the command fails with the reason; varve attach
uses loop devices then.`,
		Example: "  varve features\n  varve features --json",
		Args:    args(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.features(cmd) },
	}
	return a.jsonFlag(cmd)
}

func (a *app) features(cmd *cobra.Command) error {
	list, err := blockdev.Features(cmd.Context())
	release := kernelRelease()
	r := featureReport{Kernel: release, Ublk: err == nil, Bugs: blockdev.KnownBugs(release), Features: list}
	if err == nil {
		r.Features = append(r.Features, socketFeatures()...)
	}
	if err != nil {
		r.Reason = err.Error()
	}
	if a.json {
		return errors.Join(writeJSON(cmd.OutOrStdout(), r), err)
	}
	out := cmd.OutOrStdout()
	ublk := "yes"
	if err != nil {
		ublk = "no; varve attach uses loop devices"
	}
	fields := [][2]string{{"kernel", r.Kernel}, {"ublk", ublk}}
	for _, b := range r.Bugs {
		fields = append(fields, [2]string{"warning", fmt.Sprintf("%s: %s; %s", b.Kernels, b.Bug, b.Advice)})
	}
	writeFields(out, fields)
	fmt.Fprintln(out)
	rows := make([][]string, 0, len(r.Features))
	for _, f := range r.Features {
		rows = append(rows, []string{f.Name, orNone(f.Since), yesNo(f.Supported), yesNo(f.Used), f.Without})
	}
	writeTable(out, []column{
		{name: "feature"}, {name: "since"}, {name: "kernel"}, {name: "used"}, {name: "without it"},
	}, rows)
	return doing("features", err)
}

// socketFeatures are what the target nbd needs of sockets, for moving bytes without a copy. Their bit
// is in no mask.
func socketFeatures() []blockdev.Feature {
	b, err := uring.ProbeSocketBuffers()
	if err != nil {
		return nil // no io_uring: no device can be served
	}
	return []blockdev.Feature{
		{Name: "SEND_ZC_FIXED_BUF", Bit: -1, Since: "6.0", Supported: b.SendZC, Used: b.SendZC, Without: "nbd copies the bytes of writes"},
		{Name: "RECV_FIXED_BUF", Bit: -1, Supported: b.Recv, Used: b.Recv, Without: "nbd copies the bytes of reads"},
	}
}

func kernelRelease() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
