package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Diff compares two images. It calls begin with what is compared, and then changed for each range in
// which they differ, in order. An error of either ends it.
func (c *Client) Diff(ctx context.Context, r protocol.Diff, begin func(objstore.DiffImages) error,
	changed func(objstore.Change) error,
) (objstore.DiffTotal, error) {
	var none objstore.DiffTotal
	ctx, end := c.watched(ctx)
	defer end()
	var resp *http.Response
	err := retry(ctx, func() (err error) {
		resp, err = c.begin(ctx, "/v1/diff", r)
		return err
	})
	if err != nil {
		return none, because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	events := json.NewDecoder(resp.Body) // of any length: none of it is kept
	for {
		var e protocol.DiffEvent
		err := events.Decode(&e)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return none, errGone
		case err != nil:
			return none, because(ctx, fmt.Errorf("read the daemon's answer: %w", err))
		case e.Error != nil:
			return none, e.Error
		case e.Total != nil:
			return *e.Total, nil
		case e.Images != nil:
			err = begin(*e.Images)
		case e.Change != nil:
			err = changed(*e.Change)
		}
		if err != nil {
			return none, err
		}
	}
}
