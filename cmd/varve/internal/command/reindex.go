package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

func (a *app) reindexCmd() *cobra.Command {
	var r protocol.Reindex
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Rebuild the index from the segments",
		Long: `reindex rebuilds the index from the segments' lists of objects, while the store is in use. The index finds duplicates,
and the locations of data. The current index is used until the new one is complete, so both take space meanwhile; if
there is not enough space, the current one stays.

A store can be read without its index, and a missing or damaged index is rebuilt without this command. Use reindex if
you suspect that the index is wrong, or if it has grown too large.

The daemon rebuilds the index in the background, and varve stat shows the progress; --wait waits until it is done.
Without a daemon the command rebuilds the index itself. An interrupted rebuild continues when the store is opened
again.`,
		Example: "  varve reindex --wait\n  varve stat --json | jq .reindex",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), a.open, func(c *client.Client) error { return a.reindex(cmd, c, r) })
		},
	}
	cmd.Flags().BoolVar(&r.Wait, "wait", false, "wait until the index is rebuilt")
	return a.jsonFlag(cmd)
}

func (a *app) reindex(cmd *cobra.Command, c *client.Client, r protocol.Reindex) error {
	bar := newCountBar(cmd.ErrOrStderr(), "reindex, segments")
	done, err := c.Reindex(cmd.Context(), r, func(i objstore.ReindexInfo) { bar.update(int64(i.Done), int64(i.Segments)) })
	bar.end()
	switch {
	case err != nil:
		return doing("reindex", err)
	case a.json:
		return writeJSON(cmd.OutOrStdout(), done)
	case !done.Complete:
		fmt.Fprintln(cmd.OutOrStdout(), "the index is rebuilt in the background; varve stat shows how far it is")
	}
	return nil
}
