package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// world is a server with a handler that knows the volumes.
type world struct {
	dir     string
	volumes []protocol.Volume
	options Options
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		dir:     t.TempDir(),
		volumes: []protocol.Volume{{VolumeInfo: objstore.VolumeInfo{Name: "a"}}},
		options: Options{Logger: slog.New(slog.DiscardHandler)},
	}
}

func (w *world) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/ping", Handle(func(context.Context, *http.Request, None) (protocol.Ping, error) {
		return protocol.Ping{Protocol: protocol.Version, PID: os.Getpid()}, nil
	}))
	mux.Handle("GET /v1/volumes", Handle(func(context.Context, *http.Request, None) ([]protocol.Volume, error) {
		return w.volumes, nil
	}))
	mux.Handle("POST /v1/volumes", Handle(func(_ context.Context, _ *http.Request, c protocol.CreateVolume) (protocol.Volume, error) {
		return protocol.Volume{VolumeInfo: objstore.VolumeInfo{Name: c.Name}}, nil
	}))
	return Guard(mux, w.options.Logger)
}

// listen serves on the world's socket until the end of the test.
func (w *world) listen(t *testing.T, change func(*http.Server)) *listener {
	t.Helper()
	u, err := Listen(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	l := limit(u)
	srv := New(w.handler(), w.options)
	if change != nil {
		change(srv)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return l
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func wantError(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// raw connects without a client's manners.
func (w *world) raw(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", w.dir+"/"+protocol.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// counts returns how many connections are counted.
func (l *listener) counts() (served, overLimit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served, l.overLimit
}

// cutOff says whether the other side closes a connection within d.
func cutOff(t *testing.T, c net.Conn, d time.Duration) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

// brieflyPatient has clients retry for as long as d while the daemon is over a limit.
func brieflyPatient(t *testing.T, d time.Duration) {
	was := client.RetryTimeout
	client.RetryTimeout = d
	t.Cleanup(func() { client.RetryTimeout = was })
}

// 64 connections are served, 64 more are told that there are too many, and what comes beyond waits
// to be accepted. A client asks again, for so long, and says in the end what it has met. When the
// first are gone, all is as before.
func TestTooManyConnections(t *testing.T) {
	brieflyPatient(t, 200*time.Millisecond)
	w := newWorld(t)
	l := w.listen(t, nil)
	var held []net.Conn
	for range maxConnections {
		held = append(held, w.raw(t))
	}
	eventually(t, "all are served", func() bool { n, _ := l.counts(); return n == maxConnections })
	for range 3 { // and again: those who were told are gone
		_, err := client.Dial(t.Context(), w.dir)
		wantError(t, err, protocol.ErrOverLimit, fmt.Sprint(maxConnections), "200ms")
	}
	eventually(t, "those who were told are gone", func() bool { _, n := l.counts(); return n == 0 })
	for range maxOverLimit {
		held = append(held, w.raw(t))
	}
	eventually(t, "all are over the limit", func() bool { _, n := l.counts(); return n == maxOverLimit })
	c := w.raw(t)
	if cutOff(t, c, 100*time.Millisecond) {
		t.Error("a connection beyond the limit is closed")
	}
	if served, overLimit := l.counts(); served != maxConnections || overLimit != maxOverLimit {
		t.Errorf("%d served, %d over the limit", served, overLimit)
	}
	for _, c := range append(held, c) {
		_ = c.Close()
	}
	eventually(t, "all are gone", func() bool { served, overLimit := l.counts(); return served+overLimit == 0 })
	k, err := client.Dial(t.Context(), w.dir)
	if err != nil {
		t.Fatalf("once the connections are closed: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// Hundreds of clients at once all get their answer, while others keep most connections for
// themselves.
func TestManyClientsAreServed(t *testing.T) {
	brieflyPatient(t, 2*time.Minute)
	w := newWorld(t)
	l := w.listen(t, nil)
	for range maxConnections - 4 {
		w.raw(t)
	}
	eventually(t, "most are taken", func() bool { n, _ := l.counts(); return n == maxConnections-4 })
	const clients = 300
	errs := make(chan error, clients)
	for range clients {
		go func() {
			c, err := client.Dial(t.Context(), w.dir)
			if err == nil {
				_, err = c.Volumes(t.Context())
				err = errors.Join(err, c.Close())
			}
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A listener that is full can be closed.
func TestFullListenerCloses(t *testing.T) {
	w := newWorld(t)
	l := w.listen(t, nil)
	for range maxConnections + maxOverLimit + 1 {
		w.raw(t)
	}
	eventually(t, "it is full", func() bool { served, overLimit := l.counts(); return served+overLimit == maxConnections+maxOverLimit })
}

// A client that is slow to say what it wants is cut off, and keeps nobody from being served
// meanwhile.
func TestSlowClients(t *testing.T) {
	w := newWorld(t)
	w.listen(t, func(s *http.Server) { s.ReadHeaderTimeout, s.ReadTimeout = 300*time.Millisecond, 300*time.Millisecond })
	const header = "POST /v1/volumes HTTP/1.1\r\nHost: varve\r\nVarve-Protocol: 1\r\n"
	for name, begin := range map[string]string{
		"says nothing": "", "half a line": "GET /v1", "half a header": header, "no end of headers": header + "X: y\r\n",
		"no body":    header + "Content-Length: 50\r\n\r\n",
		"half a one": header + "Content-Length: 50\r\n\r\n{\"name\":",
		"chunks":     header + "Transfer-Encoding: chunked\r\n\r\n10\r\n{",
	} {
		c := w.raw(t)
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		if k, err := client.Dial(t.Context(), w.dir); err != nil || k.Close() != nil {
			t.Errorf("%s: somebody else: %v", name, err)
		}
		if !cutOff(t, c, 10*time.Second) {
			t.Errorf("%s: not cut off", name)
		}
	}
	// A header without an end, and one that is too large.
	c := w.raw(t)
	line := "X-Long: " + strings.Repeat("x", 1000) + "\r\n"
	_, _ = io.WriteString(c, header+strings.Repeat(line, 2*maxHeader/len(line))) // it may be cut off meanwhile
	if !cutOff(t, c, 10*time.Second) {
		t.Error("a header without end is not cut off")
	}
}

// A client that does not read its answer is given up.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	for i := range 20000 { // an answer that no socket's buffer takes
		w.volumes = append(w.volumes, protocol.Volume{VolumeInfo: objstore.VolumeInfo{Name: fmt.Sprint("volume", i)}})
	}
	w.volumes = w.volumes[1:]
	w.options.AnswerTimeout = time.Second
	l := w.listen(t, nil)
	c := w.raw(t)
	if _, err := io.WriteString(c, "GET /v1/volumes HTTP/1.1\r\nHost: varve\r\nVarve-Protocol: 1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is served", func() bool { n, _ := l.counts(); return n == 1 })
	eventually(t, "it is given up", func() bool { n, _ := l.counts(); return n == 0 })
	// One that reads gets all of it, on a slow machine too.
	patient := newWorld(t)
	patient.volumes = w.volumes
	patient.listen(t, nil)
	k, err := client.Dial(t.Context(), patient.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	if list, err := k.Volumes(t.Context()); err != nil || len(list) != 20000 {
		t.Errorf("%d volumes, %v", len(list), err)
	}
}
