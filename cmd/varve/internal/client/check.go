package client

import (
	"context"
	"net/http"
	"net/url"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// Check checks the store for damage. It calls progress from time to time.
func (c *Client) Check(ctx context.Context, r protocol.CheckStore, progress func(objstore.CheckProgress)) (report *objstore.CheckReport, err error) {
	err = follow(ctx, c, "/v1/check", r, func(e protocol.CheckEvent) (bool, error) {
		switch {
		case e.Error != nil:
			return true, e.Error
		case e.Report != nil:
			report = e.Report
			return true, nil
		case e.Progress != nil:
			progress(*e.Progress)
		}
		return false, nil
	})
	return report, err
}

// RepairVolume reports what a repair of a damaged volume would lose, or repairs it.
func (c *Client) RepairVolume(ctx context.Context, name string, r protocol.Repair) (objstore.Repair, error) {
	return call[objstore.Repair](ctx, c, http.MethodPost, "/v1/volumes/"+url.PathEscape(name)+"/repair", r)
}
