package daemon

import (
	"encoding/json"
	"net/http"
	"time"
)

// events is the answer to a long request: one JSON value per line.
type events struct{ enc *json.Encoder }

// newEvents begins an answer of events, each of which is sent at once. The client has timeout to
// read one.
func newEvents(w http.ResponseWriter, timeout time.Duration) events {
	beginEvents(w)
	return events{json.NewEncoder(newStream(w, timeout))}
}

func beginEvents(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
}

// send sends one event. An error means that the client is gone, and the request's context ends.
func (e events) send(event any) { _ = e.enc.Encode(event) }

// streamWriter sends each write to the client at once.
type streamWriter struct {
	w       http.ResponseWriter
	conn    *http.ResponseController
	timeout time.Duration // for the client to read what is written
}

func newStream(w http.ResponseWriter, timeout time.Duration) *streamWriter {
	return &streamWriter{w: w, conn: http.NewResponseController(w), timeout: timeout}
}

func (s *streamWriter) Write(p []byte) (int, error) {
	// An error means that the handler runs in the client's own process, without a connection.
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout))
	n, err := s.w.Write(p)
	_ = s.conn.Flush()
	return n, err
}
