package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/cmd/varve/internal/devices"
	"varve/cmd/varve/internal/protocol"
	"varve/cmd/varve/internal/server"
	"varve/objstore"
	"varve/objstore/index"
)

// target is a daemon over a real store in memory, with devices and mounts that are none.
type target struct {
	d      *Daemon
	store  *objstore.Store
	h      http.Handler
	panics atomic.Int64
}

// Handle counts the panics that the handler contains.
func (f *target) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "panic") {
		f.panics.Add(1)
	}
	return nil
}

func (f *target) Enabled(context.Context, slog.Level) bool { return true }
func (f *target) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f *target) WithGroup(string) slog.Handler            { return f }

func newTarget(dir string) (*target, error) {
	if err := objstore.Init(dir, objstore.InitOptions{}); err != nil {
		return nil, err
	}
	ctx := context.Background()
	s, err := objstore.Open(ctx, dir, objstore.Options{SettleDelay: time.Millisecond, Index: index.NewMem()})
	if err != nil {
		return nil, err
	}
	f := &target{store: s}
	f.d = New(dir, s, Options{
		Logger: slog.New(f), ublk: newFakeTransport("ublkb", true), loop: newFakeTransport("loop", false), mounter: &fakeMounter{},
	})
	f.h = f.d.Handler()
	for _, v := range []string{"a", "b"} {
		if _, err := s.CreateVolume(ctx, v, objstore.VolumeOptions{Size: 1 << 20}); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return f, nil
}

func (f *target) close() error {
	f.d.Release(context.Background(), true)
	f.d.watchers.Wait()
	return f.store.Close()
}

// check says what a request must not have done, whatever it was.
func (f *target) check(t testing.TB) {
	t.Helper()
	if f.panics.Load() > 0 {
		t.Fatal("the handler panicked")
	}
	for _, v := range f.store.Volumes() {
		c := protocol.CreateVolume{Name: v.Name, Size: v.Size, BlockSize: v.BlockSize}
		if err := c.Check(); err != nil {
			t.Fatalf("there is a volume that nobody may have: %v", err)
		}
	}
	snaps, err := f.store.Snapshots("")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range snaps {
		if err := protocol.CheckName(s.Name); err != nil {
			t.Fatalf("there is a snapshot that nobody may have: %v", err)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/v1/stat", nil)
	r.Header.Set(protocol.Header, "1")
	if f.h.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Fatalf("stat is answered with %d: %s", w.Code, w.Body)
	}
}

// checkAnswer wants JSON: of a refusal, an error with words.
func checkAnswer(t testing.TB, status int, body []byte) {
	t.Helper()
	if status == http.StatusNoContent && len(body) == 0 {
		return
	}
	if !json.Valid(body) {
		t.Fatalf("status %d, and no JSON: %q", status, body)
	}
	var e protocol.Error
	if err := json.Unmarshal(body, &e); status >= http.StatusBadRequest && (err != nil || e.Message == "") {
		t.Fatalf("status %d, and no error: %q", status, body)
	}
	if status == http.StatusInternalServerError {
		t.Fatalf("nobody thought of this error: %s", body)
	}
}

var endpoints = []string{
	"GET /v1/ping", "GET /v1/stat", "GET /v1/volumes", "POST /v1/volumes", "GET /v1/volumes/a", "DELETE /v1/volumes/a",
	"GET /v1/snapshots", "GET /v1/snapshots?volume=a", "POST /v1/snapshots", "DELETE /v1/snapshots/a/s", "POST /v1/diff", "GET /v1/attachments",
	"POST /v1/attach", "POST /v1/detach", "POST /v1/mount", "POST /v1/umount", "POST /v1/stop",
}

// hostile bodies, each for every endpoint.
var hostile = []string{
	``, `{}`, `[]`, `null`, `0`, `"x"`, `{`, `{"name":`, `{} {}`, "\x00", "\xff\xfe",
	`{"name":"a","size":1048576}`, `{"name":"new","size":9223372036854775807}`, `{"name":"new","size":-9223372036854775808}`,
	`{"name":"new","size":9223372036854775808}`, `{"name":"new","size":1e300}`, `{"name":"new","size":70368744178176}`,
	`{"name":"new","size":70368744178177}`, `{"name":"new","size":70368744178688}`, `{"name":"new","size":0}`,
	`{"name":"new","size":512,"block_size":-4096}`, `{"name":"new","size":512,"block_size":9223372036854775807}`,
	`{"name":"../../etc","size":512}`, `{"name":"a/b","size":512}`, `{"name":"a\u0000b","size":512}`, `{"name":"а","size":512}`,
	`{"name":"a\nb","size":512}`, `{"name":"-rf","size":512}`, `{"name":"\u202Ea","size":512}`, `{"name":"ａ","size":512}`,
	`{"NAME":"new","size":512}`, `{"name":"new","name":"..","size":512}`, `{"name":["a"],"size":512}`,
	`{"volume":"a","name":"s"}`, `{"volume":"a","name":"s","wait":true}`, `{"volume":"a@b","name":"s"}`, `{"volume":"nope","name":"s"}`,
	`{"volume":"a","queues":-1}`, `{"volume":"a","depth":99999999}`, `{"volume":"a","transport":"loop","queues":1}`, `{"volume":"a","copy_mode":"\u0000"}`,
	`{"volume":"a"}`, `{"volume":"b","transport":"loop"}`, `{"target":""}`, `{"target":"a","force":true}`, `{"target":"/dev/../dev/ublkb0"}`,
	`{"target":"\u0000"}`, `{"dir":"/"}`, `{"dir":"/tmp"}`, `{"dir":"//tmp"}`, `{"dir":"/tmp\u0000x"}`, `{"dir":"/tmp/\n"}`, `{"dir":"relative"}`,
	`{"dir":"/tmp","allow_other":true}`, `{"detach":true}`, `{"detach":"yes"}`,
}

// Requests that are nearly right, with a real store behind them.
func FuzzRequest(f *testing.F) {
	for _, e := range endpoints {
		for _, b := range hostile {
			f.Add(e, b)
		}
	}
	f.Add("GET /v1/volumes/%2e%2e", "")
	f.Add("DELETE /v1/snapshots/a/%00", "")
	f.Add("DELETE /v1/volumes/a%2Fb", "")
	f.Add("GET /v1/snapshots?volume=%ff&volume=a", "")
	f.Add("GET /../v1/volumes", "")
	f.Add("GET //v1//volumes", "")
	var s *target
	f.Cleanup(func() {
		if s == nil {
			return
		}
		if err := s.close(); err != nil {
			f.Error(err)
		}
	})
	dir, requests := f.TempDir(), 0
	f.Fuzz(func(t *testing.T, line, body string) {
		if s == nil || requests%500 == 499 { // what was made stays only so long
			if s != nil {
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if s, err = newTarget(filepath.Join(dir, strconv.Itoa(requests))); err != nil {
				t.Fatal(err)
			}
		}
		requests++
		method, path, _ := strings.Cut(line, " ")
		u, err := url.ParseRequestURI(path)
		if err != nil || strings.ContainsAny(method, " \r\n") {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r := (&http.Request{
			Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "varve",
			Header: http.Header{protocol.Header: {"1"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}).WithContext(ctx)
		w := httptest.NewRecorder()
		s.h.ServeHTTP(w, r)
		if w.Code/100 != 3 { // the mux redirects unclean paths
			checkAnswer(t, w.Code, w.Body.Bytes())
		}
		if ctx.Err() != nil {
			t.Fatal("not answered in time")
		}
		s.d.turns.resume() // and on it goes
		s.check(t)
	})
}

// Any bytes on the connection: each answer is HTTP, and the next client is served.
func FuzzSocket(f *testing.F) {
	const header = " HTTP/1.1\r\nHost: varve\r\nVarve-Protocol: 1\r\n"
	f.Add([]byte("GET /v1/ping" + header + "\r\n"))
	f.Add([]byte("GET /v1/ping" + header + "\r\nGET /v1/volumes" + header + "\r\n"))
	f.Add([]byte("POST /v1/volumes" + header + "Content-Length: 24\r\n\r\n{\"name\":\"n\",\"size\":5120}"))
	f.Add([]byte("POST /v1/volumes" + header + "Transfer-Encoding: chunked\r\n\r\n18\r\n{\"name\":\"n\",\"size\":5120}\r\n0\r\n\r\n"))
	f.Add([]byte("POST /v1/volumes" + header + "Content-Length: 99999999999999999999\r\n\r\n{}"))
	f.Add([]byte("POST /v1/volumes" + header + "Content-Length: -1\r\n\r\n{}"))
	f.Add([]byte("POST /v1/volumes" + header + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("GET /v1/ping" + header + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte("CONNECT a:1 HTTP/1.1\r\n\r\n"))
	f.Add([]byte("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("GET http://elsewhere/v1/ping HTTP/1.1\r\nHost: a\r\nVarve-Protocol: 1\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	f.Add([]byte("\r\n\r\n\r\n"))
	f.Add([]byte("GET /" + strings.Repeat("a", 40<<10)))
	dir := f.TempDir()
	s, err := newTarget(filepath.Join(dir, "store"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.close(); err != nil {
			f.Error(err)
		}
	})
	l, err := server.Listen(dir)
	if err != nil {
		f.Fatal(err)
	}
	srv := s.d.NewServer()
	srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(server.Limit(l)) }()
	f.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<17 || bytes.Contains(b, []byte("stop")) || bytes.Contains(b, []byte(protocol.HandoverPath)) {
			return
		}
		c, err := net.Dial("unix", filepath.Join(dir, protocol.SocketName))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(b) // it may be cut off before the end
		_ = c.(*net.UnixConn).CloseWrite()
		answer, err := io.ReadAll(io.LimitReader(c, 1<<24))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection is neither answered nor closed")
		}
		if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.")) {
			t.Fatalf("answered with %.100q", answer)
		}
		s.check(t)
	})
}

// The list of devices that a dead daemon has left, of any bytes.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"store":"u","boot":"b","attached":[{"volume":"a","device":"/dev/ublkb0","transport":"ublk","id":0}],"mounts":[{"dir":"/mnt"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"attached":[{"volume":"../..","device":"../x","transport":"tape","id":-1,"queues":-5}],"mounts":[{"dir":"x/../y"}]}`))
	f.Add([]byte(`{"version":1,"attached":null,"mounts":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		// In this boot: then it is believed, as far as the kernel confirms it.
		b = bytes.ReplaceAll(b, []byte(`"boot":"b"`), []byte(`"boot":"`+boot(slog.New(slog.DiscardHandler))+`"`))
		if err := os.WriteFile(filepath.Join(dir, "attached.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := devices.ReadList(dir)
		if err != nil {
			return
		}
		for _, m := range s.Mounts {
			if m.Check() != nil {
				t.Fatalf("a mount at %q", m.Dir)
			}
		}
		for _, a := range s.Attached {
			if protocol.CheckName(a.Volume) != nil {
				t.Fatalf("a device of volume %q", a.Volume)
			}
		}
		if err := s.Write(dir); err != nil {
			t.Fatal(err)
		}
		again, err := devices.ReadList(dir)
		if err != nil || len(again.Attached) != len(s.Attached) || len(again.Mounts) != len(s.Mounts) {
			t.Fatalf("%+v becomes %+v, %v", s, again, err)
		}
	})
}
