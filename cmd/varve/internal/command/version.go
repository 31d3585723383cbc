package command

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/protocol"
)

// Version is set by the linker: -X varve/cmd/varve/internal/command.Version=v1.2.3.
var Version = ""

// version returns Version, or else the commit that the program was built from.
func version() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + dirty
}

// versionReport is the output of `varve version --json`.
type versionReport struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"` // of the daemon's socket
	Go       string `json:"go"`       // of the build
}

// versionLine returns the version for people.
func versionLine() string {
	return fmt.Sprintf("varve %s (protocol %d, %s)", version(), protocol.Version, runtime.Version())
}

func (a *app) versionCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  varve version --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionReport{version(), protocol.Version, runtime.Version()}
			if a.json {
				return writeJSON(cmd.OutOrStdout(), v)
			}
			fmt.Fprintln(cmd.OutOrStdout(), versionLine())
			return nil
		},
	}
	return a.jsonFlag(cmd)
}
