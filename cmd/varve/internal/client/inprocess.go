package client

import (
	"fmt"
	"io"
	"net/http"
	"sync"
)

// inProcess answers a request by calling the handler, whose answer can be read while it is written.
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
		_ = writer.Close() // it gives no error
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

// answer is what the handler writes to.
type answer struct {
	header http.Header
	body   *io.PipeWriter

	once   sync.Once
	begun  chan struct{} // closed when status and sent are there
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

// answerBody ends with the handler: whoever has closed it may close the store.
type answerBody struct {
	*io.PipeReader
	done chan struct{}
}

func (b *answerBody) Close() error {
	err := b.PipeReader.Close()
	<-b.done
	return err
}
