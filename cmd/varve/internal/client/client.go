// Package client speaks the daemon's protocol: over the store's socket to a running daemon, or
// in-process to a handler, for commands that need no daemon.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// maxAnswer bounds the body of a response, or an event of one that is answered with events, in
// bytes.
const maxAnswer = 256 << 20

var errGone = errors.New("the daemon went away before it answered; its log says why")

// Client is a client of one daemon. Safe for concurrent use.
type Client struct {
	http  *http.Client
	close func() error
	ping  *protocol.Ping // nil: in-process

	aliveEvery, aliveTimeout time.Duration // unused if ping is nil
}

// Local returns a client of a handler in this process. Close calls release.
func Local(h http.Handler, release func() error) *Client {
	return &Client{http: &http.Client{Transport: inProcess{h}}, close: release}
}

// Daemon describes the daemon that answers; nil for a local client.
func (c *Client) Daemon() *protocol.Ping { return c.ping }

// Close closes the connection, or the store that a local client has open.
func (c *Client) Close() error { return c.close() }

// Ping returns a description of the daemon.
func (c *Client) Ping(ctx context.Context) (protocol.Ping, error) {
	return call[protocol.Ping](ctx, c, http.MethodGet, "/v1/ping", nil)
}

// Stat returns the store's statistics.
func (c *Client) Stat(ctx context.Context) (protocol.Stat, error) {
	return call[protocol.Stat](ctx, c, http.MethodGet, "/v1/stat", nil)
}

// SetMaxSize limits the store's size on disk.
func (c *Client) SetMaxSize(ctx context.Context, r protocol.MaxSize) (protocol.Stat, error) {
	return call[protocol.Stat](ctx, c, http.MethodPut, "/v1/max-size", r)
}

// SetMaintenance changes settings of the store's maintenance.
func (c *Client) SetMaintenance(ctx context.Context, r protocol.Maintenance) (protocol.Stat, error) {
	return call[protocol.Stat](ctx, c, http.MethodPatch, "/v1/maintenance", r)
}

// SetIdentity tells the daemon what a store is that was copied or moved.
func (c *Client) SetIdentity(ctx context.Context, r protocol.Identity) (protocol.Identified, error) {
	return call[protocol.Identified](ctx, c, http.MethodPut, "/v1/identity", r)
}

// Volumes returns all volumes, sorted by name.
func (c *Client) Volumes(ctx context.Context) ([]protocol.Volume, error) {
	return call[[]protocol.Volume](ctx, c, http.MethodGet, "/v1/volumes", nil)
}

// SharedVolumes is Volumes with their shares of the store, as far as they are known.
func (c *Client) SharedVolumes(ctx context.Context) ([]protocol.Volume, error) {
	return call[[]protocol.Volume](ctx, c, http.MethodGet, "/v1/volumes?shares=true", nil)
}

// Volume returns one volume, with its share of the store.
func (c *Client) Volume(ctx context.Context, name string) (protocol.Volume, error) {
	return call[protocol.Volume](ctx, c, http.MethodGet, "/v1/volumes/"+url.PathEscape(name), nil)
}

// CreateVolume creates a volume.
func (c *Client) CreateVolume(ctx context.Context, r protocol.CreateVolume) (protocol.Volume, error) {
	return call[protocol.Volume](ctx, c, http.MethodPost, "/v1/volumes", r)
}

// CloneVolume creates a volume that begins with what another one, or a snapshot of it, holds.
func (c *Client) CloneVolume(ctx context.Context, volume string, r protocol.CloneVolume) (protocol.Volume, error) {
	return call[protocol.Volume](ctx, c, http.MethodPost, "/v1/volumes/"+url.PathEscape(volume)+"/clone", r)
}

// ResizeVolume changes the size of a volume and of its device.
func (c *Client) ResizeVolume(ctx context.Context, volume string, r protocol.ResizeVolume) (protocol.Resized, error) {
	return call[protocol.Resized](ctx, c, http.MethodPost, "/v1/volumes/"+url.PathEscape(volume)+"/resize", r)
}

// RollbackVolume makes a snapshot the content of its volume again.
func (c *Client) RollbackVolume(ctx context.Context, volume string, r protocol.RollbackVolume) (protocol.RolledBack, error) {
	return call[protocol.RolledBack](ctx, c, http.MethodPost, "/v1/volumes/"+url.PathEscape(volume)+"/rollback", r)
}

// RenameVolume changes the name of a volume.
func (c *Client) RenameVolume(ctx context.Context, volume, to string) (protocol.Volume, error) {
	return call[protocol.Volume](ctx, c, http.MethodPost, "/v1/volumes/"+url.PathEscape(volume)+"/rename", protocol.Rename{To: to})
}

// RenameSnapshot changes the name of a snapshot.
func (c *Client) RenameSnapshot(ctx context.Context, volume, snap, to string) (objstore.SnapshotInfo, error) {
	path := "/v1/snapshots/" + url.PathEscape(volume) + "/" + url.PathEscape(snap) + "/rename"
	return call[objstore.SnapshotInfo](ctx, c, http.MethodPost, path, protocol.Rename{To: to})
}

// SetVolume changes a volume's properties.
func (c *Client) SetVolume(ctx context.Context, name string, r protocol.SetVolume) (protocol.VolumeSet, error) {
	return call[protocol.VolumeSet](ctx, c, http.MethodPatch, "/v1/volumes/"+url.PathEscape(name), r)
}

// History returns the past states of a volume, oldest first.
func (c *Client) History(ctx context.Context, volume string) ([]objstore.SnapshotInfo, error) {
	return call[[]objstore.SnapshotInfo](ctx, c, http.MethodGet, "/v1/volumes/"+url.PathEscape(volume)+"/history", nil)
}

// Prune drops what the policies of volumes do not keep, or says what that is.
func (c *Client) Prune(ctx context.Context, r protocol.Prune) (protocol.Pruned, error) {
	return call[protocol.Pruned](ctx, c, http.MethodPost, "/v1/prune", r)
}

// DeleteVolume deletes a volume that is not in use.
func (c *Client) DeleteVolume(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/volumes/"+url.PathEscape(name), nil)
	return err
}

// Snapshots returns the snapshots of a volume, or of all if volume is empty.
func (c *Client) Snapshots(ctx context.Context, volume string) ([]objstore.SnapshotInfo, error) {
	path := "/v1/snapshots"
	if volume != "" {
		path += "?volume=" + url.QueryEscape(volume)
	}
	return call[[]objstore.SnapshotInfo](ctx, c, http.MethodGet, path, nil)
}

// SharedSnapshots is Snapshots with their shares of the store, as far as they are known.
func (c *Client) SharedSnapshots(ctx context.Context, volume string) ([]objstore.SnapshotInfo, error) {
	path := "/v1/snapshots?shares=true"
	if volume != "" {
		path += "&volume=" + url.QueryEscape(volume)
	}
	return call[[]objstore.SnapshotInfo](ctx, c, http.MethodGet, path, nil)
}

// WouldFree returns what a deletion would free.
func (c *Client) WouldFree(ctx context.Context, r protocol.WouldFree) (objstore.Freed, error) {
	return call[objstore.Freed](ctx, c, http.MethodPost, "/v1/would-free", r)
}

// CreateSnapshot creates a snapshot of a volume.
func (c *Client) CreateSnapshot(ctx context.Context, r protocol.CreateSnapshot) (objstore.SnapshotInfo, error) {
	return call[objstore.SnapshotInfo](ctx, c, http.MethodPost, "/v1/snapshots", r)
}

// DeleteSnapshot deletes a snapshot.
func (c *Client) DeleteSnapshot(ctx context.Context, volume, snap string) error {
	path := "/v1/snapshots/" + url.PathEscape(volume) + "/" + url.PathEscape(snap)
	_, err := call[struct{}](ctx, c, http.MethodDelete, path, nil)
	return err
}

// Attach attaches a volume to a device, which is usable when Attach returns.
func (c *Client) Attach(ctx context.Context, r protocol.Attach) (protocol.Attached, error) {
	return call[protocol.Attached](ctx, c, http.MethodPost, "/v1/attach", r)
}

// Attachments returns the attached volumes and snapshots.
func (c *Client) Attachments(ctx context.Context) ([]protocol.Attachment, error) {
	return call[[]protocol.Attachment](ctx, c, http.MethodGet, "/v1/attachments", nil)
}

// Detach removes a device.
func (c *Client) Detach(ctx context.Context, r protocol.Detach) (protocol.Attachment, error) {
	return call[protocol.Attachment](ctx, c, http.MethodPost, "/v1/detach", r)
}

// AddTarget has the daemon serve a new device over a target.
func (c *Client) AddTarget(ctx context.Context, r protocol.TargetDevice) (protocol.TargetAdded, error) {
	return call[protocol.TargetAdded](ctx, c, http.MethodPost, "/v1/targets", r)
}

// RecoverTarget has the daemon serve a device over a target whose server has ended.
func (c *Client) RecoverTarget(ctx context.Context, r protocol.TargetDevice) (protocol.TargetAdded, error) {
	return call[protocol.TargetAdded](ctx, c, http.MethodPost, "/v1/targets/recover", r)
}

// AutoDetach makes the daemon detach a device when the file system on it is unmounted.
func (c *Client) AutoDetach(ctx context.Context, r protocol.AutoDetach) error {
	_, err := call[protocol.Attachment](ctx, c, http.MethodPost, "/v1/auto-detach", r)
	return err
}

// Mount mounts the store.
func (c *Client) Mount(ctx context.Context, r protocol.Mount) error {
	_, err := call[protocol.Mount](ctx, c, http.MethodPost, "/v1/mount", r)
	return err
}

// Unmount unmounts the store.
func (c *Client) Unmount(ctx context.Context, r protocol.Unmount) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/umount", r)
	return err
}

// Stop stops the daemon, which ends soon after its answer.
func (c *Client) Stop(ctx context.Context, r protocol.Stop) (protocol.Stopped, error) {
	return call[protocol.Stopped](ctx, c, http.MethodPost, "/v1/stop", r)
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (answer T, err error) {
	ctx, end := c.watched(ctx)
	defer end()
	err = retry(ctx, func() (err error) {
		answer, err = callOnce[T](ctx, c, method, path, body)
		return err
	})
	return answer, because(ctx, err)
}

// callOnce is call without retries.
func callOnce[T any](ctx context.Context, c *Client, method, path string, body any) (answer T, err error) {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	defer func() { _ = resp.Body.Close() }()
	return answer, decode(resp, &answer)
}

// send sends a request to the daemon. The caller closes the body of the response.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://varve"+path, reader)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set(protocol.Header, strconv.Itoa(protocol.Version))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) { // its text has an invented host name
			err = wrapped.Err
		}
		for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
			if errors.Is(err, gone) {
				return nil, errGone
			}
		}
		// net/http does not export this error: the connection was closed before the request was
		// sent.
		if strings.Contains(err.Error(), "server closed idle connection") {
			return nil, errGone
		}
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	return resp, nil
}

func decode(resp *http.Response, answer any) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	if v := resp.Header.Get(protocol.Header); v != strconv.Itoa(protocol.Version) {
		return fmt.Errorf("the daemon speaks protocol %q and this version of varve %d: restart the daemon with this version "+
			"(varve stop, varve serve)", v, protocol.Version)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		refusal := &protocol.Error{}
		if err := json.Unmarshal(data, refusal); err != nil || refusal.Message == "" {
			return fmt.Errorf("the daemon answered %s", resp.Status)
		}
		return refusal
	}
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// Patience bounds the first request to a daemon. Do not change it while Dial runs.
var Patience = 10 * time.Second
