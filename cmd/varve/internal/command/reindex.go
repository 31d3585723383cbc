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
		Long: `reindex rebuilds the index, by which duplicates and the locations of data are found, from the lists of objects in the
segments, while the store is in use. The present index is used until the new one is complete, so both need space for
some time. If there is no such space, the present one stays.

The index is not needed to read a store, and a missing or damaged one is rebuilt without this command. reindex is for an
index that is suspected to be wrong, or has grown too large.

The daemon rebuilds in the background, as varve stat shows; --wait waits for the end. Without a daemon the command
rebuilds the index itself. A rebuilding that was interrupted goes on when the store is opened again.`,
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
