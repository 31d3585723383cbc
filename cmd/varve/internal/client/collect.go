package client

import (
	"context"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Collect has the store collected. It calls progress from time to time while it waits for that.
func (c *Client) Collect(ctx context.Context, r protocol.Collect, progress func(objstore.CollectState)) (protocol.Collected, error) {
	return await[objstore.CollectState, protocol.Collected](ctx, c, "/v1/collect", r, progress)
}
