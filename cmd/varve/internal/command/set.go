package command

import (
	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
)

func (a *app) setCmd() *cobra.Command {
	var maxSize string
	cmd := &cobra.Command{
		Use:   "set --max-size SIZE",
		Short: "Change a store's settings",
		Long: `set changes what is kept in the store, with or without a daemon.

--max-size bounds what the store's files take on disk; "none" leaves it to the file system. Writes are refused some
way before that: a twentieth of it, 32MiB at least, is kept for settling, deleting and opening, as varve stat shows.
A maximum below what is used stops writes and nothing else; raised, they go on at once.`,
		Example: "  varve set --max-size 200G\n  varve set --max-size none",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r protocol.MaxSize
			switch maxSize {
			case "":
				return usagef("--max-size is missing; give one like --max-size 200G, or none")
			case "none":
			default:
				n, err := parseSize(maxSize)
				if err != nil {
					return usagef("--max-size: %w", err)
				}
				if r.Bytes = n; n == 0 {
					return usagef("--max-size 0; write none for no maximum")
				}
			}
			if err := r.Check(); err != nil {
				return &usageError{err}
			}
			return a.do(cmd.Context(), a.open, func(c *client.Client) error {
				s, err := c.SetMaxSize(cmd.Context(), r)
				if err != nil {
					return doing("set --max-size", err)
				}
				if a.json {
					return writeJSON(cmd.OutOrStdout(), s)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&maxSize, "max-size", "", "what the store may take on disk: a `size` like 200G, or none")
	return a.jsonFlag(cmd)
}
