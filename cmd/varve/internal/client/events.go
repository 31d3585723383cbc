package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"varve/cmd/varve/internal/protocol"
)

// follow sends a request that is answered with events, one JSON value a line, and calls event for
// each of them until it returns true, or an error. The answer may have any length, as none of it is
// kept, and an event at most maxAnswer bytes.
func follow[E any](ctx context.Context, c *Client, path string, body any, event func(E) (last bool, err error)) error {
	ctx, end := c.watched(ctx)
	defer end()
	var resp *http.Response
	err := retry(ctx, func() (err error) {
		resp, err = c.begin(ctx, path, body)
		return err
	})
	if err != nil {
		return because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer := &eventReader{r: resp.Body}
	events := json.NewDecoder(answer)
	for {
		var e E
		answer.left = maxAnswer
		err := events.Decode(&e)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errGone
		case err != nil:
			return because(ctx, fmt.Errorf("read the daemon's answer: %w", err))
		}
		if last, err := event(e); last || err != nil {
			return err
		}
	}
}

// eventReader reads left bytes, and then fails.
type eventReader struct {
	r    io.Reader
	left int
}

var errLongEvent = fmt.Errorf("an event of more than %d bytes", maxAnswer)

// Read implements [io.Reader].
func (r *eventReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, errLongEvent
	}
	n, err := r.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// await follows a request whose answer is protocol.Events until it is done. It calls progress from
// time to time.
func await[P, D any](ctx context.Context, c *Client, path string, body any, progress func(P)) (done D, err error) {
	err = follow(ctx, c, path, body, func(e protocol.Event[P, D]) (bool, error) {
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
