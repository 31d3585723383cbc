package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Check checks the store for damage. It calls progress from time to time.
func (c *Client) Check(ctx context.Context, r protocol.CheckStore, progress func(objstore.CheckProgress)) (*objstore.CheckReport, error) {
	ctx, end := c.watched(ctx)
	defer end()
	var resp *http.Response
	err := retry(ctx, func() (err error) {
		resp, err = c.begin(ctx, "/v1/check", r)
		return err
	})
	if err != nil {
		return nil, because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	events := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	for {
		var e protocol.CheckEvent
		err := events.Decode(&e)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, errGone
		case err != nil:
			return nil, because(ctx, fmt.Errorf("read the daemon's answer: %w", err))
		case e.Error != nil:
			return nil, e.Error
		case e.Report != nil:
			return e.Report, nil
		case e.Progress != nil:
			progress(*e.Progress)
		}
	}
}

// begin sends a request that is answered with events, and returns the response, whose body has them.
// The caller closes the body.
func (c *Client) begin(ctx context.Context, path string, body any) (*http.Response, error) {
	resp, err := c.send(ctx, http.MethodPost, path, body)
	if err != nil || resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Type") == "application/x-ndjson" {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	var nothing struct{}
	if err := decode(resp, &nothing); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the daemon answered %s", resp.Status)
}

// RepairVolume reports what a repair of a damaged volume would lose, or repairs it.
func (c *Client) RepairVolume(ctx context.Context, name string, r protocol.Repair) (objstore.Repair, error) {
	return call[objstore.Repair](ctx, c, http.MethodPost, "/v1/volumes/"+url.PathEscape(name)+"/repair", r)
}
