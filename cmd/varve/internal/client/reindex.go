package client

import (
	"context"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Reindex has the index rebuilt. It calls progress from time to time while it waits for that.
func (c *Client) Reindex(ctx context.Context, r protocol.Reindex, progress func(objstore.ReindexInfo)) (protocol.Reindexed, error) {
	return await[objstore.ReindexInfo, protocol.Reindexed](ctx, c, "/v1/reindex", r, progress)
}
