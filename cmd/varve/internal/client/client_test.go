package client

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore"
)

// answering returns a client whose every request is answered with a status and a body.
func answering(version string, status int, body string) *Client {
	return Local(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(protocol.Header, version)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}), func() error { return nil })
}

func TestOddAnswers(t *testing.T) {
	for _, c := range []struct {
		version string
		status  int
		body    string
		words   string
	}{
		{"99", 200, "[]", "restart the daemon with this version"},
		{"", 404, "404 page not found", "restart the daemon with this version"},
		{"1", 500, "no JSON", "500"},
		{"1", 500, "{}", "500"},
		{"1", 200, "no JSON", "read the daemon's answer"},
	} {
		_, err := answering(c.version, c.status, c.body).Volumes(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	_, err := answering("1", 404, `{"kind":"not_found","error":"volume a: not found"}`).Volume(t.Context(), "a")
	if !errors.Is(err, objstore.ErrNotFound) || err.Error() != "volume a: not found" {
		t.Errorf("a refusal arrives as %v", err)
	}
}

// A name is never more than one part of a request's path.
func TestNamesAreEscaped(t *testing.T) {
	var path string
	c := Local(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		w.Header().Set(protocol.Header, "1")
		w.WriteHeader(http.StatusNoContent)
	}), func() error { return nil })
	if err := c.DeleteSnapshot(t.Context(), "a/../b", "c?d"); err != nil || path != "/v1/snapshots/a%2F..%2Fb/c%3Fd" {
		t.Errorf("path %q, %v", path, err)
	}
}

// A daemon that dies between connection and answer is none.
func TestDyingDaemon(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, protocol.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("dial: %v", err)
	}
	_ = l.Close()
	<-done
	for _, path := range []string{dir, filepath.Join(dir, "nowhere")} {
		if _, err := Dial(t.Context(), path); !errors.Is(err, ErrNoDaemon) {
			t.Errorf("dial %s: %v", path, err)
		}
	}
}

// Whatever a daemon answers, a client takes it or says that it can't.
func FuzzAnswer(f *testing.F) {
	f.Add(200, `[{"name":"a","size":512}]`)
	f.Add(200, `[{"name":"a","size":9223372036854775808}]`)
	f.Add(204, "")
	f.Add(404, `{"kind":"not_found","error":"volume a: not found"}`)
	f.Add(500, `{"error":""}`)
	f.Add(503, "null")
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		_, err := answering("1", status, body).Volumes(t.Context())
		if err == nil && status >= 400 {
			t.Errorf("status %d is no error", status)
		}
		if err != nil && err.Error() == "" {
			t.Errorf("status %d, %q: an error without words", status, body)
		}
		if _, err := answering("1", status, body).Stat(t.Context()); err == nil && status >= 400 {
			t.Errorf("status %d is no error", status)
		}
	})
}
