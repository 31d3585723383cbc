package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"varve/cmd/varve/internal/client"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
)

// ask sends a raw request to a daemon with one volume, and gives the status and what it was refused
// with.
func ask(t *testing.T, h http.Handler, method, path, body string, header map[string]string) (int, protocol.Error) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set(protocol.Header, "1")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var e protocol.Error
	if w.Code >= http.StatusBadRequest {
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Message == "" {
			t.Errorf("%s %s: the refusal is no error in JSON: %q", method, path, w.Body)
		}
	}
	return w.Code, e
}

func TestHostileRequests(t *testing.T) {
	w := newWorld(t, "a")
	h := w.d.Handler()
	for _, c := range []struct {
		name, method, path, body string
		header                   map[string]string
		status                   int
		words                    string
	}{
		{"other protocol", "GET", "/v1/ping", "", map[string]string{protocol.Header: "99"}, 400, `protocol "99"`},
		{"no protocol", "GET", "/v1/ping", "", map[string]string{protocol.Header: ""}, 400, "protocol"},
		{"unknown path", "GET", "/v1/nothing", "", nil, 400, "GET /v1/nothing"},
		{"wrong method", "PUT", "/v1/volumes", "{}", nil, 400, "PUT"},
		{"no JSON", "POST", "/v1/volumes", "name=a", nil, 400, "invalid"},
		{"empty body", "POST", "/v1/volumes", "", nil, 400, "EOF"},
		{"two values", "POST", "/v1/stop", `{} {}`, nil, 400, "more than one"},
		{"unknown field", "POST", "/v1/volumes", `{"name":"b","size":512,"evil":1}`, nil, 400, "evil"},
		{"large body", "POST", "/v1/volumes", `{"name":"` + strings.Repeat("x", protocol.MaxBody) + `"}`, nil, 400, "too large"},
		{"bad name", "POST", "/v1/volumes", `{"name":"../b","size":512}`, nil, 400, "begins with"},
		{"bad size", "POST", "/v1/volumes", `{"name":"b","size":-512}`, nil, 400, "size"},
		{"size of another type", "POST", "/v1/volumes", `{"name":"b","size":"1G"}`, nil, 400, "size"},
		{"bad name in a path", "GET", "/v1/volumes/..%2fb", "", nil, 400, "begins with"},
		{"bad name to delete", "DELETE", "/v1/volumes/%00", "", nil, 400, "name"},
		{"bad snapshot to delete", "DELETE", "/v1/snapshots/a/%2e%2e", "", nil, 400, "begins with"},
		{"bad volume in a query", "GET", "/v1/snapshots?volume=a%20b", "", nil, 400, "space"},
		{"diff of a bad name", "POST", "/v1/diff", `{"from":{"volume":"a b"},"to":{"volume":"a"}}`, nil, 400, "space"},
		{"diff of what is not there", "POST", "/v1/diff", `{"from":{"volume":"a","snapshot":"s"},"to":{"volume":"a"}}`, nil, 404, "not found"},
		{"bad snapshot", "POST", "/v1/snapshots", `{"volume":"a","name":"@"}`, nil, 400, "snapshot"},
		{"bad transport", "POST", "/v1/attach", `{"volume":"a","transport":"tape"}`, nil, 400, "tape"},
		{"many queues", "POST", "/v1/attach", `{"volume":"a","queues":100000}`, nil, 400, "queues"},
		{"relative mount point", "POST", "/v1/mount", `{"dir":"x"}`, nil, 400, "absolute"},
		{"unclean mount point", "POST", "/v1/umount", `{"dir":"/x/../y"}`, nil, 400, "clean"},
		{"unknown volume", "GET", "/v1/volumes/b", "", nil, 404, "not found"},
	} {
		status, e := ask(t, h, c.method, c.path, c.body, c.header)
		if status != c.status || !strings.Contains(e.Message, c.words) {
			t.Errorf("%s: status %d, %q; want %d and %q", c.name, status, e.Message, c.status, c.words)
		}
	}
	if v := w.store.Volumes(); len(v) != 1 {
		t.Errorf("after nothing but refusals there are %d volumes", len(v))
	}
}

func TestPanicIsContained(t *testing.T) {
	w := newWorld(t)
	w.store.panics = true
	_, err := w.c.Volumes(t.Context())
	if err == nil || !strings.Contains(err.Error(), "internal error") || strings.Contains(err.Error(), "goroutine") {
		t.Errorf("a panic is answered with %v", err)
	}
	w.store.mu.TryLock() // the fake died holding it
	w.store.mu.Unlock()
	w.store.panics = false
	if _, err := w.c.Volumes(t.Context()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

// A command's own handler has no devices, and knows of those that wait.
func TestLocalHandler(t *testing.T) {
	d := New(t.TempDir(), newFakeStore("a"), Options{})
	d.table.Expect([]protocol.Attachment{{Volume: "a", Device: "/dev/ublkb0"}})
	c := client.Local(d.Handler(), func() error { return nil })
	_, err := c.Attach(t.Context(), protocol.Attach{Volume: "a"})
	wantError(t, err, protocol.ErrNeedsDaemon, "varve serve --background")
	wantError(t, c.Mount(t.Context(), protocol.Mount{Dir: "/mnt"}), protocol.ErrNeedsDaemon)
	_, err = c.Stop(t.Context(), protocol.Stop{})
	wantError(t, err, protocol.ErrNeedsDaemon)
	wantError(t, c.DeleteVolume(t.Context(), "a"), objstore.ErrInUse, "/dev/ublkb0")
	s, err := c.Stat(t.Context())
	if err != nil || s.Daemon != nil {
		t.Errorf("stat without a daemon: %+v, %v", s.Daemon, err)
	}
}

// TestSocket speaks over a real socket in a directory whose path is longer than a socket's address
// may be.
func TestSocket(t *testing.T) {
	w := newWorld(t, "a")
	w.d.dir = filepath.Join(w.dir, strings.Repeat("long", 40))
	if err := unix.Mkdir(w.d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial(t.Context(), w.d.dir); !errors.Is(err, client.ErrNoDaemon) {
		t.Fatalf("dial without a daemon: %v", err)
	}
	l, err := server.Listen(w.d.dir)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(w.d.dir, protocol.SocketName), &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("the socket's mode is %o (%v), want 600", st.Mode&0o777, err)
	}
	srv := w.d.NewServer()
	srv.ReadTimeout = 100 * time.Millisecond
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	c, err := client.Dial(t.Context(), w.d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Daemon() == nil || c.Daemon().UUID != "u-u-i-d" {
		t.Errorf("the daemon says it is %+v", c.Daemon())
	}
	list, err := c.Volumes(t.Context())
	if err != nil || len(list) != 1 {
		t.Errorf("volumes: %v, %v", list, err)
	}
	// An answer may take longer than the reading of its request.
	if s, err := c.CreateSnapshot(t.Context(), protocol.CreateSnapshot{Volume: "a", Name: "slow", Wait: true}); err != nil || s.Root == "" {
		t.Errorf("a slow answer: %+v, %v", s, err)
	}
	// A client that goes away takes its request with it.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.CreateSnapshot(ctx, protocol.CreateSnapshot{Volume: "a", Name: "never", Wait: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request that was given up: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	w.d.shutdown(srv)
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
	// The socket of a dead daemon is in nobody's way.
	l, err = server.Listen(w.d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
