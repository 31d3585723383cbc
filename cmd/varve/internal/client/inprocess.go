package client

import (
	"fmt"
	"io"
	"net/http"
	"sync"
)

// inProcess is a transport that calls a handler. The response can be read while the handler writes
// it.
type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	a := &answer{header: http.Header{}, body: writer, begun: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.handler.ServeHTTP(a, r)
		_ = r.Body.Close()
		a.WriteHeader(http.StatusOK)
		_ = writer.Close() // returns no error
	}()
	<-a.begun
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)),
		StatusCode:    a.status,
		Header:        a.sent,
		Body:          &answerBody{reader, done},
		ContentLength: -1,
		Request:       r,
	}, nil
}

// answer is the handler's ResponseWriter.
type answer struct {
	header http.Header
	body   *io.PipeWriter

	once   sync.Once
	begun  chan struct{} // closed when status and sent are set
	status int
	sent   http.Header
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	})
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// answerBody is a response's body. Close waits for the handler, so the store may be closed
// afterwards.
type answerBody struct {
	*io.PipeReader
	done chan struct{}
}

func (b *answerBody) Close() error {
	err := b.PipeReader.Close()
	<-b.done
	return err
}
