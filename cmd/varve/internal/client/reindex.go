package client

import (
	"context"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Reindex has the index rebuilt. It calls progress from time to time while it waits for that.
func (c *Client) Reindex(ctx context.Context, r protocol.Reindex, progress func(objstore.ReindexInfo)) (done protocol.Reindexed, err error) {
	err = follow(ctx, c, "/v1/reindex", r, func(e protocol.ReindexEvent) (bool, error) {
		switch {
		case e.Error != nil:
			return true, e.Error
		case e.Done != nil:
			done = *e.Done
			return true, nil
		case e.Progress != nil:
			progress(*e.Progress)
		}
		return false, nil
	})
	return done, err
}
