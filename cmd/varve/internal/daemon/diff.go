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
func (q *storeRequests) serveDiff(w http.ResponseWriter, r *http.Request) {
	var images protocol.Diff
	if err := server.Decode(w, r, &images); err != nil {
		server.Refuse(w, err)
		return
	}
	leave, err := q.waits.enter() // the images settle first, and the client reads as long as it likes
	if err != nil {
		server.Refuse(w, err)
		return
	}
	defer leave()
	out := bufio.NewWriterSize(newStream(w, q.answerTimeout), diffBuffer)
	enc := json.NewEncoder(out)
	begun := false
	total, err := q.store.Diff(r.Context(), images.From, images.To, func(i objstore.DiffImages) error {
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
		q.log.Warn("diff ended early", "from", images.From.String(), "to", images.To.String(), "error", err)
		e, _ := protocol.NewError(err)
		_ = enc.Encode(protocol.DiffEvent{Error: e}) // fails if the client is gone
	default:
		_ = enc.Encode(protocol.DiffEvent{Total: &total})
	}
	_ = out.Flush()
}
