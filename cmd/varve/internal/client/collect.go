package client

import (
	"context"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Collect has the store collected. It calls progress from time to time while it waits for that.
func (c *Client) Collect(ctx context.Context, r protocol.Collect, progress func(objstore.CollectState)) (done protocol.Collected, err error) {
	err = follow(ctx, c, "/v1/collect", r, func(e protocol.CollectEvent) (bool, error) {
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
