package client

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"varve/cmd/varve/internal/protocol"
)

// A daemon that stops answering while a request is under way ends the request; one that is only
// slow does not.
func TestDaemonThatFallsSilent(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, protocol.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	var silent atomic.Bool
	var pings atomic.Int32
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(protocol.Header, strconv.Itoa(protocol.Version))
		switch {
		case silent.Load():
			<-r.Context().Done()
		case r.URL.Path == "/v1/ping":
			pings.Add(1)
			_, _ = w.Write([]byte(`{"protocol":1,"pid":` + strconv.Itoa(os.Getpid()) + `,"store":"` + dir + `"}`))
		case strings.HasPrefix(r.URL.Path, "/v1/volumes"):
			for pings.Load() < 4 { // slow, and asked meanwhile
				time.Sleep(time.Millisecond)
			}
			_, _ = w.Write([]byte(`[]`))
		default: // falls silent
			silent.Store(true)
			<-r.Context().Done()
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()

	c, err := Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.aliveEvery, c.aliveTimeout = 10*time.Millisecond, time.Minute
	if list, err := c.Volumes(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("a slow answer: %v, %v", list, err)
	}
	c.aliveTimeout = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = c.Stat(ctx)
	if !IsSilent(err) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("the daemon fell silent: %v", err)
	}
	silent.Store(false)
	c.aliveTimeout = 50 * time.Millisecond
	if _, err := c.Check(ctx, protocol.CheckStore{}, nil); !IsSilent(err) {
		t.Errorf("the daemon fell silent in a check: %v", err)
	}
}
