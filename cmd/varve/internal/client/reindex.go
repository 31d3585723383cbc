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

// Reindex has the index rebuilt. It calls progress from time to time while it waits for that.
func (c *Client) Reindex(ctx context.Context, r protocol.Reindex, progress func(objstore.ReindexInfo)) (protocol.Reindexed, error) {
	ctx, end := c.watched(ctx)
	defer end()
	var resp *http.Response
	err := retry(ctx, func() (err error) {
		resp, err = c.begin(ctx, "/v1/reindex", r)
		return err
	})
	if err != nil {
		return protocol.Reindexed{}, because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	events := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	for {
		var e protocol.ReindexEvent
		err := events.Decode(&e)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return protocol.Reindexed{}, errGone
		case err != nil:
			return protocol.Reindexed{}, because(ctx, fmt.Errorf("read the daemon's answer: %w", err))
		case e.Error != nil:
			return protocol.Reindexed{}, e.Error
		case e.Done != nil:
			return *e.Done, nil
		case e.Progress != nil:
			progress(*e.Progress)
		}
	}
}
