package daemon

import (
	"bufio"
	"encoding/json"
	"net/http"

	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// diffBuffer is how many bytes of an answer are sent at once.
const diffBuffer = 32 << 10

// serveDiff answers with events, one per line, as it walks the trees; it buffers no part of the
// answer. It ends when the client goes away, or does not read for too long.
func (d *Daemon) serveDiff(w http.ResponseWriter, r *http.Request) {
	var q protocol.Diff
	if err := server.Decode(w, r, &q); err != nil {
		server.Refuse(w, err)
		return
	}
	leave, err := d.wait() // the images settle first, and the client reads as long as it likes
	if err != nil {
		server.Refuse(w, err)
		return
	}
	defer leave()
	out := bufio.NewWriterSize(d.stream(w), diffBuffer)
	enc := json.NewEncoder(out)
	begun := false
	total, err := d.store.Diff(r.Context(), q.From, q.To, func(i objstore.DiffImages) error {
		begun = true
		beginEvents(w)
		return enc.Encode(protocol.DiffEvent{Images: &i})
	}, func(c objstore.Change) error {
		return enc.Encode(protocol.DiffEvent{Change: &c})
	})
	switch {
	case err != nil && !begun:
		server.Refuse(w, err)
		return
	case err != nil:
		d.log.Warn("diff ended early", "from", q.From.String(), "to", q.To.String(), "error", err)
		e, _ := protocol.NewError(err)
		_ = enc.Encode(protocol.DiffEvent{Error: e}) // fails if the client is gone
	default:
		_ = enc.Encode(protocol.DiffEvent{Total: &total})
	}
	_ = out.Flush()
}
