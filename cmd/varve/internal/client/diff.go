package client

import (
	"context"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Diff compares two images. It calls begin with what is compared, and then changed for each range in
// which they differ, in order. An error of either ends it.
func (c *Client) Diff(ctx context.Context, r protocol.Diff, begin func(objstore.DiffImages) error,
	changed func(objstore.Change) error,
) (total objstore.DiffTotal, err error) {
	err = follow(ctx, c, "/v1/diff", r, func(e protocol.DiffEvent) (bool, error) {
		switch {
		case e.Error != nil:
			return true, e.Error
		case e.Total != nil:
			total = *e.Total
			return true, nil
		case e.Images != nil:
			return false, begin(*e.Images)
		case e.Change != nil:
			return false, changed(*e.Change)
		}
		return false, nil
	})
	return total, err
}
